package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/cqrsync/cqrsync/internal/store"
)

// replicaStatusObject is what status --side replica --json prints. Names are never changed, only added.
type replicaStatusObject struct {
	Waiting   map[string]int64  `json:"waiting"`
	Masters   []masterObject    `json:"masters"`
	Databases []neighbourObject `json:"other_databases"`
}

type masterObject struct {
	Model       string    `json:"model"`
	Incarnation string    `json:"incarnation"`
	First       time.Time `json:"first"`
	Last        time.Time `json:"last"`
	Current     bool      `json:"current"`
	// Returns counts messages that it wrote after a later one had come, Overtaken those refused though they were later.
	Returns   int64 `json:"returns"`
	Overtaken int64 `json:"overtaken"`
}

type neighbourObject struct {
	Queue    string    `json:"queue"`
	Database string    `json:"database"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	Times    int64     `json:"times"`
}

// replicaStatus shows what waits, where messages came from, and who else is behind the queue.
func (o *options) replicaStatus(ctx context.Context, cmd *cli.Command) (err error) {
	defer func() { err = errors.Join(err, o.close()) }()
	s, dbErr := o.openStore()
	if err := wrong(noArguments(cmd), dbErr); err != nil {
		return err
	}
	if err := s.RequireMigrated(ctx, store.Replica); err != nil {
		return err
	}
	st, err := readReplicaStatus(ctx, s)
	if err != nil {
		return err
	}
	if o.json {
		return json.NewEncoder(o.stdout).Encode(st)
	}
	return st.print(o.stdout)
}

func readReplicaStatus(ctx context.Context, s *store.Store) (st replicaStatusObject, err error) {
	waiting, err := s.CountWaiting(ctx)
	if err != nil {
		return st, err
	}
	masters, _, err := s.Masters(ctx)
	if err != nil {
		return st, err
	}
	neighbours, _, err := s.Neighbours(ctx)
	if err != nil {
		return st, err
	}
	st = replicaStatusObject{Waiting: waiting, Masters: []masterObject{}, Databases: []neighbourObject{}}
	for i, m := range masters {
		last := i == len(masters)-1 || masters[i+1].Model != m.Model
		st.Masters = append(st.Masters, masterObject{m.Model, m.Incarnation, m.First, m.Last, last, m.Returns, m.Overtaken})
	}
	for _, n := range neighbours {
		st.Databases = append(st.Databases, neighbourObject{n.Queue, n.ID, n.First, n.Last, n.Times})
	}
	return st, nil
}

func (st replicaStatusObject) print(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var waiting int64
	for _, n := range st.Waiting {
		waiting += n
	}
	fmt.Fprintf(table, "waiting messages\t%d\n", waiting)
	for _, m := range st.Masters {
		fmt.Fprintf(table, "master of %s\t%s, last %s\n", oneLine(m.Model), m.title(), m.Last.Format(time.RFC3339))
		if m.Returns > 0 {
			fmt.Fprintf(table, "\ttwo masters write it: %d of its messages came after those of a later one\n", m.Returns)
		}
		if m.Overtaken > 0 {
			fmt.Fprintf(table, "\tit went back: %d changes were refused; relay diff, or relay sync --force\n", m.Overtaken)
		}
	}
	for _, d := range st.Databases {
		fmt.Fprintf(table, "queue %s\tanother database, %s, was found behind it %d times, last %s\n",
			oneLine(d.Queue), oneLine(d.Database), d.Times, d.Last.Format(time.RFC3339))
	}
	return table.Flush()
}

func (m masterObject) title() string {
	title := oneLine(m.Incarnation)
	if title == "" {
		title = "one that does not name itself"
	}
	if !m.Current {
		title += " (before)"
	}
	return title
}
