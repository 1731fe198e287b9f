package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/uptrace/bun"
)

// Verification is how far the comparison of a replica's model with the master's has come.
type Verification struct {
	Queue string `json:"-"`
	Model string `json:"-"`
	// Asked is when somebody asked for a pass last, Next when one is due by itself.
	Asked time.Time `json:"asked,omitzero"`
	Next  time.Time `json:"next,omitzero"`
	// Through is the start of the last pass in which all was equal: what was committed at the
	// master before then, the replica has, or something newer of the same key.
	Through time.Time `json:"through,omitzero"`
	// Again counts the passes since then that came soon after one that found something.
	Again int `json:"again,omitempty"`
	// Pass is the one that runs, nil for none; Last the one that ended last.
	Pass *Pass `json:"pass,omitempty"`
	Last *Pass `json:"last,omitempty"`
}

// Pass is one comparison of all keys of a model.
type Pass struct {
	ID      string    `json:"id"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	// Moved is when something came back last.
	Moved time.Time `json:"moved"`
	// Urgent says that somebody waits for it.
	Urgent bool `json:"urgent,omitempty"`
	// Speaks says that the master's ledger has what its table has.
	Speaks bool `json:"speaks,omitempty"`
	// Position is the key up to which the replica has compared, after so many steps; Due is when
	// the next step may go. After the last one there is none.
	Position string    `json:"position,omitempty"`
	Step     int       `json:"step"`
	Due      time.Time `json:"due,omitzero"`
	AllSent  bool      `json:"all_sent,omitempty"`
	// Keys were compared.
	Keys int64 `json:"keys"`
	// Open are what the replica has not answered yet.
	Open map[string]Open `json:"open,omitempty"`
	// Found counts the keys that differed, also after the grace, by how they did.
	Found map[string]int64 `json:"found,omitempty"`
	// NoRepair says that the replica reports only.
	NoRepair bool `json:"no_repair,omitempty"`
	// Absent are keys that only the replica has, and Absents how many those are.
	Absent  []Absent `json:"absent,omitempty"`
	Absents int64    `json:"absents,omitempty"`
	// Outcome says how it ended.
	Outcome Outcome `json:"outcome,omitempty"`
}

// Outcome is how a pass ended.
type Outcome string

// The outcomes.
const (
	// Equal says that the replica had all that the master had when the pass began, or something
	// newer.
	Equal Outcome = "equal"
	// Repaired says that something differed, and that a repair of all of it is on its way.
	Repaired Outcome = "repaired"
	// Differs says that something differed, and not all of it is repaired.
	Differs Outcome = "differs"
	// Unproven says that answers were missing, so that nobody knows.
	Unproven Outcome = "unproven"
)

// Open is something that the replica was asked to compare: the keys after After up to To. Those
// ends are open where they are empty.
type Open struct {
	After string `json:"after,omitempty"`
	To    string `json:"to,omitempty"`
	// Keys is about how many the master has there.
	Keys int `json:"keys,omitempty"`
	// Measured says of a step that To and Keys are known. It ends there, however often it is asked:
	// the next one begins there.
	Measured bool `json:"measured,omitempty"`
	// Sent is when it was sent, for the last of so many times.
	Sent  time.Time `json:"sent"`
	Tries int       `json:"tries,omitempty"`
}

// Absent is a key that only the replica has, in a revision of its ledger; -1 where that has none.
type Absent struct {
	Key      string `json:"k"`
	Revision int64  `json:"r"`
}

// Verifications returns how far all of them have come.
func (r *Registry) Verifications(ctx context.Context) (all []Verification, err error) {
	rows, err := r.DB().QueryContext(ctx, "SELECT queue, model, state FROM ? ORDER BY queue, model",
		r.Table("outbox_verifications"))
	if err != nil {
		return nil, fmt.Errorf("read the verifications: %w", err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var queue, model, state string
		if err := rows.Scan(&queue, &model, &state); err != nil {
			return nil, fmt.Errorf("read the verifications: %w", err)
		}
		one, err := parseVerification(queue, model, state)
		if err != nil {
			return nil, fmt.Errorf("the verification of %s by %q: %w", model, queue, err)
		}
		all = append(all, one)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the verifications: %w", err)
	}
	return all, nil
}

// Verify changes how far a verification has come, while nobody else does. change is told the time
// by the database's clock; where it returns false nothing is written.
func (r *Registry) Verify(
	ctx context.Context, queue, model string, change func(now time.Time, v *Verification) bool,
) error {
	err := r.InTx(ctx, func(ctx context.Context, tx bun.IDB) error {
		v, now, err := r.lockVerification(ctx, tx, queue, model)
		if err != nil || !change(now, &v) {
			return err
		}
		state, err := json.Marshal(v)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "UPDATE ? SET state = ? WHERE queue = ? AND model = ?",
			r.Table("outbox_verifications"), string(state), queue, model)
		return err
	})
	if err != nil {
		return fmt.Errorf("change the verification of %s by %q: %w", model, queue, err)
	}
	return nil
}

// lockVerification reads a verification, which is made where there is none, and keeps it locked.
func (r *Registry) lockVerification(
	ctx context.Context, tx bun.IDB, queue, model string,
) (v Verification, now time.Time, err error) {
	clock := r.Dialect().Now()
	_, err = tx.ExecContext(ctx,
		"INSERT INTO ? (queue, model, state, changed_at) VALUES (?, ?, '{}', "+clock+")"+
			r.Upsert("queue, model", "changed_at"), r.Table("outbox_verifications"), queue, model)
	if err != nil {
		return v, now, err
	}
	var state string
	var micros int64
	err = tx.QueryRowContext(ctx, "SELECT state, "+r.Dialect().Micros(clock)+
		" FROM ? WHERE queue = ? AND model = ?",
		r.Table("outbox_verifications"), queue, model).Scan(&state, &micros)
	if err == nil {
		v, err = parseVerification(queue, model, state)
	}
	return v, time.UnixMicro(micros).UTC(), err
}

// parseVerification reads what is stored of one. Its maps can be written to, also those that are
// stored as nothing.
func parseVerification(queue, model, state string) (v Verification, err error) {
	err = json.Unmarshal([]byte(state), &v)
	v.Queue, v.Model = queue, model
	if p := v.Pass; p != nil && p.Open == nil {
		p.Open = map[string]Open{}
	}
	if p := v.Pass; p != nil && p.Found == nil {
		p.Found = map[string]int64{}
	}
	return v, err
}
