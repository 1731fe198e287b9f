package main

import (
	"strings"

	"github.com/urfave/cli/v3"
)

// examples are command lines that are said in the help of a command. "$DB" and the like are the
// operator's own.
var examples = map[string]string{
	"relay":                   `relay status --db "$DB"`,
	"relay run":               `relay run --db "$DB" --broker "$BROKER" --health 9464`,
	"relay migrate":           `relay migrate --db "$DB"`,
	"relay status":            `relay status --db "$DB" --watch 2s`,
	"relay dead-letters":      `relay dead-letters list --db "$DB"`,
	"relay dead-letters list": `relay dead-letters list --db "$DB" --model order`,
	"relay dead-letters show": `relay dead-letters show --db "$DB" --id 7`,
	"relay dead-letters dump": "relay dead-letters dump --side replica --queue stats " +
		`--broker "$BROKER"`,
	"relay dead-letters retry": `relay dead-letters retry --db "$DB" --model order --key 17`,
	"relay dead-letters purge": `relay dead-letters purge --db "$DB" --older-than 72h`,
	"relay waiting":            `relay waiting list --db "$COPIES"`,
	"relay waiting list":       `relay waiting list --db "$COPIES" --model order`,
	"relay waiting retry":      `relay waiting retry --db "$COPIES" --model order --key 17`,
	"relay waiting drop":       `relay waiting drop --db "$COPIES" --model order --older-than 72h`,
	"relay forget-deleted":     `relay forget-deleted --db "$DB" --model order --older-than 4320h`,
	"relay lanes":              `relay lanes --db "$DB"`,
	"relay lanes set":          `relay lanes set 16 --db "$DB"`,
	"relay incarnation":        `relay incarnation --db "$DB"`,
	"relay incarnation new":    `relay incarnation new --db "$DB" --reason "backup of monday"`,
	"relay replicas":           `relay replicas list --db "$DB"`,
	"relay replicas list":      `relay replicas list --db "$DB" --json`,
	"relay replicas forget":    `relay replicas forget --db "$DB" stats`,
	"relay verify":             `relay verify --db "$DB" --queue stats --all`,
	"relay key":                `relay key --db "$DB" order 17`,
	"relay dump": `relay dump --db "$DB" --config shop.yaml --model order ` +
		">orders.jsonl",
	"relay load": `relay load --db "$COPIES" --config stats.yaml <orders.jsonl`,
	"relay sync": `relay sync --db "$DB" --config shop.yaml --model order ` +
		"--queue stats",
	"relay diff-master":          `relay diff-master --db "$DB" --config shop.yaml --model order`,
	"relay diff-replica":         `relay diff-replica --db "$COPIES" --config stats.yaml <diff`,
	"relay diff-sync":            `relay diff-sync --db "$DB" --config shop.yaml <diff`,
	"relay deleted-diff-master":  `relay deleted-diff-master --db "$DB" --config shop.yaml <deleted`,
	"relay deleted-diff-replica": `relay deleted-diff-replica --db "$COPIES" --config stats.yaml`,
	"relay deleted-sync-replica": `relay deleted-sync-replica --db "$COPIES" ` +
		"--config stats.yaml <diff",
	"relay adopt": `relay adopt --db "$DB" --config shop.yaml --model order`,
	"relay backfill": `relay backfill --db "$DB" --broker "$BROKER" --config shop.yaml \
     --queue stats --model order`,
	"relay diff": `relay diff --config shop.yaml --master-db "$DB" \
     --replica-db "$COPIES" --all`,
	"relay capture":         `relay capture check --db "$DB" --config shop.yaml`,
	"relay capture install": `relay capture install --db "$DB" --config shop.yaml`,
	"relay capture check":   `relay capture check --db "$DB" --config shop.yaml`,
	"relay capture remove":  `relay capture remove --db "$DB" --config shop.yaml`,
	"relay manifest":        `relay manifest --db "$DB" >shop.yaml`,
	"relay queues":          `relay queues list --broker "$BROKER"`,
	"relay queues list":     `relay queues list --broker "$BROKER"`,
	"relay queues remove":   `relay queues remove stats --broker "$BROKER"`,
	"relay backup":          `relay backup --db "$DB" sqlite://backup.db`,
	"relay answer":          `relay answer --db "$DB" --broker "$BROKER" --config shop.yaml`,
	"relay replicate":       `relay replicate --db "$COPIES" --broker "$BROKER" --config stats.yaml`,
}

// describe adds to the help of each command how it is called, by its path.
func describe(cmd *cli.Command) { describeBelow("", cmd) }

func describeBelow(above string, cmd *cli.Command) {
	path := strings.TrimSpace(above + " " + cmd.Name)
	if example := examples[path]; example != "" {
		text := "For example:\n   " + example
		if cmd.Description != "" {
			text = cmd.Description + "\n\n" + text
		}
		cmd.Description = text
	}
	for _, below := range cmd.Commands {
		describeBelow(path, below)
	}
}
