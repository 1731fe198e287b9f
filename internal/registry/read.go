package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Replicas returns what is known of all replicas, by the names of their queues, and the time by the
// database's clock.
func (r *Registry) Replicas(ctx context.Context) (all []Replica, now time.Time, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("read the replicas: %w", err)
		}
	}()
	if now, err = r.Now(ctx); err != nil {
		return nil, now, err
	}
	if all, err = r.readReplicas(ctx); err != nil || len(all) == 0 {
		return nil, now, err
	}
	return all, now, r.readInstances(ctx, all)
}

func (r *Registry) readReplicas(ctx context.Context) (all []Replica, err error) {
	micros := r.Dialect().Micros
	rows, err := r.DB().QueryContext(ctx, "SELECT queue, models, "+micros("first_at")+", "+
		micros("reported_at")+
		", "+micros("beat_at")+", "+micros("echoed_at")+", "+micros("through_at")+", lag, "+
		micros("vanished_at")+
		" FROM ? ORDER BY queue", r.Table("outbox_replicas"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var one Replica
		var models string
		var first, reported, beat, echoed, through, lag, vanished *int64
		err := rows.Scan(&one.Queue, &models, &first, &reported, &beat, &echoed, &through, &lag,
			&vanished)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(models), &one.Models); err != nil {
			return nil, fmt.Errorf("the models of %q: %w", one.Queue, err)
		}
		one.First, one.Reported, one.Beat = timeOf(first), timeOf(reported), timeOf(beat)
		one.Echoed, one.Through, one.Vanished = timeOf(echoed), timeOf(through), timeOf(vanished)
		if lag != nil {
			one.Lag = time.Duration(*lag) * time.Microsecond
		}
		all = append(all, one)
	}
	return all, rows.Err()
}

// readInstances fills in the processes of replicas.
func (r *Registry) readInstances(ctx context.Context, all []Replica) error {
	of := make(map[string]*Replica, len(all))
	for i := range all {
		of[all[i].Queue] = &all[i]
	}
	rows, err := r.DB().QueryContext(ctx, "SELECT queue, instance, pace, "+
		r.Dialect().Micros("reported_at")+
		", report FROM ? ORDER BY queue, reported_at DESC, instance", r.Table("outbox_replica_instances"))
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var queue, report string
		var one Instance
		var pace, reported int64
		if err := rows.Scan(&queue, &one.Name, &pace, &reported, &report); err != nil {
			return err
		}
		one.Pace, one.Reported = time.Duration(pace)*time.Microsecond, time.UnixMicro(reported).UTC()
		one.Report = json.RawMessage(report)
		if replica := of[queue]; replica != nil { // else it was forgotten meanwhile
			replica.Instances = append(replica.Instances, one)
		}
	}
	return rows.Err()
}

func timeOf(micros *int64) time.Time {
	if micros == nil {
		return time.Time{}
	}
	return time.UnixMicro(*micros).UTC()
}

// LagAt is how late a replica is at a time: what the last heartbeat said that came back, or as long
// as one is on its way that should have come back. known is false before the first did.
func (r Replica) LagAt(now time.Time) (lag time.Duration, known bool) {
	if r.Echoed.IsZero() {
		return 0, false
	}
	lag = r.Lag
	// A heartbeat that went out after the last one that came back is due when the replica has
	// reported since. Where it has not reported, how late it is is not known, and grows.
	if r.Beat.After(r.Echoed) {
		if waiting := now.Sub(r.Echoed) - 3*r.pace(); waiting > lag {
			lag = now.Sub(r.Through)
		}
	}
	return lag, true
}

// pace is how often the replica reports.
func (r Replica) pace() time.Duration {
	pace := time.Duration(0)
	for _, one := range r.Instances {
		pace = max(pace, one.Pace)
	}
	return pace
}

// SilentAt says that a replica has not reported for three of its intervals at a time.
func (r Replica) SilentAt(now time.Time) bool {
	return len(r.Instances) == 0 || now.Sub(r.Reported) > 3*r.pace()
}
