package diagnosis_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/diagnosis"
)

func TestAKeyIsReadAsPeopleWriteIt(t *testing.T) {
	for text, want := range map[string][2]string{
		"order 17": {"order", "17"}, " order/17 ": {"order", "17"}, "order a b": {"order", "a b"},
		"order  x/y": {"order", "x/y"},
	} {
		model, key, err := diagnosis.ParseKey(text)
		require.NoError(t, err, text)
		require.Equal(t, want, [2]string{model, key}, text)
	}
	for _, text := range []string{"", " ", "order", "order ", "/17"} {
		_, _, err := diagnosis.ParseKey(text)
		require.ErrorIs(t, err, diagnosis.ErrNoKey, text)
	}
}

func TestAKeyIsSaidInASentence(t *testing.T) {
	now := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	at := func(queue string, revision int64) admin.KeyAtReplica {
		return admin.KeyAtReplica{Queue: queue, Answered: &now, Known: true, Revision: revision,
			Applied: &now}
	}
	key := func(change func(*admin.Key)) *admin.Key {
		k := &admin.Key{Model: "order", Key: "17", At: now, Known: true, Revision: 5, Updated: now,
			Replicas: []admin.KeyAtReplica{at("stats", 5), at("web", 5)}}
		change(k)
		return k
	}
	for want, change := range map[string]func(*admin.Key){
		"order 17 is at revision 5 on the master, and the same on stats, web.": func(*admin.Key) {},
		"order 17 is at revision 5 on the master, but web is at revision 4.": func(k *admin.Key) {
			k.Replicas[1].Revision = 4
		},
		"order 17 is at revision 5 on the master, and web gave no answer.": func(k *admin.Key) {
			k.Replicas[1].Answered = nil
		},
		"order 17 waits for 12 min: the broker does not take it: no queue.": func(k *admin.Key) {
			k.Retry = &admin.KeyRetry{Attempts: 3, Error: "no queue", Since: now.Add(-12 * time.Minute)}
		},
		"order 17 is deleted in revision 5 on the master, and the same on stats, web.": func(k *admin.Key) {
			k.Deleted, k.Replicas[0].Deleted, k.Replicas[1].Known = true, true, false
		},
		"order 17 is not known, neither on the master nor on replicas.": func(k *admin.Key) {
			k.Known, k.Replicas[0].Known, k.Replicas[1].Known = false, false, false
		},
		"order 17 is not known on the master, but stats is at revision 5, web is at revision 5.": func(k *admin.Key) {
			k.Known = false
		},
	} {
		state := diagnosis.OfKey(key(change))
		require.Equal(t, want, state.Sentence)
		require.NotEmpty(t, state.Timeline)
	}
}
