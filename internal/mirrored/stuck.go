package mirrored

import (
	"encoding/json"
	"time"
)

// Stuck is a message that was not applied: it waits, or was given up.
type Stuck struct {
	Key      string    `json:"key"`
	Dead     bool      `json:"dead,omitempty"`
	Revision int64     `json:"revision"`
	Error    string    `json:"error"`
	Since    time.Time `json:"since"`
	// Body is the message, if somebody asked about its key; empty where it is no JSON or too large.
	Body json.RawMessage `json:"body,omitempty"`
}

// Entry is what a replica has of one key. Its names in JSON travel to the master.
type Entry struct {
	// Known says that the ledger has the key, in a revision, which may be a tombstone.
	Known    bool  `json:"known"`
	Revision int64 `json:"revision"`
	Deleted  bool  `json:"deleted,omitempty"`
	// Updated is the master's time of the revision, Applied when it was written here, by the clock
	// of the replica's database; zero where that is not known.
	Updated time.Time `json:"updated,omitzero"`
	Applied time.Time `json:"applied,omitzero"`
	// Stuck are the messages of the key that were not applied.
	Stuck []Stuck `json:"stuck,omitempty"`
}

// StuckGroup is what was not applied for one reason. Its names in JSON travel to the master.
type StuckGroup struct {
	// Dead says that the messages were given up; else they wait.
	Dead  bool      `json:"dead,omitempty"`
	Error string    `json:"error"`
	Count int       `json:"count"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	// Keys are some of them.
	Keys []string `json:"keys"`
}
