package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/internal/store"
)

// leastForgotten is how old a deleted key must be at least: what replicas remember by default (KeepTombstones).
const leastForgotten = 90 * 24 * time.Hour

// forgetOptions choose deleted keys.
type forgetOptions struct {
	model string
	age   time.Duration
}

func (o *options) forgetDeleted() *cli.Command {
	return &cli.Command{
		Name:  "forget-deleted",
		Usage: "make the master's ledger forget keys that were deleted long ago",
		Description: "The ledger keeps each deleted key, so that one that is created again continues its revision. What is " +
			"forgotten gives that up: the key begins again at revision 0, and a replica that still remembers the deletion " +
			"(KeepTombstones, 90 days by default), or finds a message of before in its queue or dead letters, ignores the " +
			"new row, or deletes it. So --older-than is at least 2160h (90 days), and must be longer than the KeepTombstones " +
			"of every replica and than any message can be on its way. Where keys are never used again, nothing is given up.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "model", Destination: &o.forget.model, Usage: "the model"},
			&cli.DurationFlag{Name: "older-than", Destination: &o.forget.age, Usage: "keys deleted so long ago, as in 4320h"},
			&cli.BoolFlag{Name: "json", Destination: &o.json, Usage: "one JSON object"},
		},
		Action: o.runForgetDeleted,
	}
}

func (o *options) runForgetDeleted(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	var modelErr, ageErr error
	if o.forget.model == "" {
		modelErr = setting{flag: "--model"}.wrong(errors.New("not set, want the model's CQRS id"))
	}
	if o.forget.age < leastForgotten {
		ageErr = olderThanSetting.wrong(fmt.Errorf("%s, want %s or more, and more than every replica's KeepTombstones: "+
			"replicas that remember the deletion ignore a key that begins again", o.forget.age, leastForgotten))
	}
	s, dbErr := o.openStore()
	if err := wrong(noArguments(cmd), dbErr, modelErr, ageErr); err != nil {
		return err
	}
	if err := s.RequireMigrated(ctx, store.Outbox); err != nil {
		return err
	}
	n, err := s.ForgetDeleted(ctx, o.forget.model, o.forget.age)
	if o.json {
		return errors.Join(err, json.NewEncoder(o.stdout).Encode(map[string]int64{"forgotten": n}))
	}
	fmt.Fprintf(o.stdout, "%d deleted keys of %s forgotten\n", n, o.forget.model)
	return err
}
