package envelope_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/cqrsync/cqrsync/envelope"
)

func ExampleDecode() {
	body := []byte(`{"signal_type":"SAVE","cqrs_id":"account","instance_data":{"id":7,"balance":9007199254740993,` +
		`"cqrs_revision":3,"cqrs_updated":"2026-11-22 22:18:25.760678+00:00"},"previous_data":null,"instance_pk":7,` +
		`"correlation_id":"req-42","retries":0,"expires":null,"meta":{}}`)
	m, err := envelope.Decode(body, map[string]string{"cqrs_after": "1"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fields, err := m.Fields()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(m.Signal, m.Model, m.Key, "revision", m.Revision, "after", *m.After)
	fmt.Println("balance", string(fields["balance"]), "at", m.Updated)
	// Output:
	// SAVE account 7 revision 3 after 1
	// balance 9007199254740993 at 2026-11-22 22:18:25.760678 +0000 UTC
}

func ExampleDecodeError() {
	_, err := envelope.Decode([]byte(`{"signal_type":"SAVE","cqrs_id":"account","instance_data":{"id":7},"instance_pk":7}`), nil)
	var unreadable *envelope.DecodeError
	if errors.As(err, &unreadable) {
		fmt.Println("parked, look at", unreadable.Key)
	}
	fmt.Println(err)
	// Output:
	// parked, look at instance_data.cqrs_revision
	// unreadable message: instance_data.cqrs_revision: missing
}

func ExampleMessage_Encode() {
	pk := json.RawMessage("7")
	updated := time.Date(2026, 11, 22, 22, 16, 45, 407603000, time.UTC)
	m := envelope.Message{
		Signal:   envelope.Delete,
		Model:    "account",
		PK:       pk,
		Key:      "7",
		Revision: 4,
		Data:     envelope.Stamp(envelope.DeleteData(pk), 4, updated),
		Expires:  updated.Truncate(time.Second).Add(24 * time.Hour),
	}
	body, err := m.Encode()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(string(body))
	fmt.Println(m.Metadata())
	// Output:
	// {"signal_type":"DELETE","cqrs_id":"account","instance_data":{"id":7,"cqrs_revision":4,"cqrs_updated":"2026-11-22 22:16:45.407603+00:00"},"previous_data":null,"instance_pk":7,"correlation_id":null,"retries":0,"expires":"2026-11-23T22:16:45+00:00","meta":{}}
	// map[cqrs_key:7 cqrs_revision:4]
}
