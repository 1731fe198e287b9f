package webhooks

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Deliveries are signed as https://www.standardwebhooks.com says, so that a subscriber finds a
// library for its language. The id is the same with every attempt: it tells a subscriber what it
// has had before.
const (
	headerID        = "Webhook-Id"
	headerTimestamp = "Webhook-Timestamp" // of the attempt, seconds since 1970
	headerSignature = "Webhook-Signature" // v1, and HMAC-SHA256 of id.timestamp.body

	secretPrefix = "whsec_"
)

// tolerance is how old, or how far in the future, a delivery may be: an older one that somebody
// recorded and sends again is refused.
const tolerance = 5 * time.Minute

func newSecret() string {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return secretPrefix + base64.StdEncoding.EncodeToString(key)
}

func newMessageID() string { return "msg_" + rand.Text() }

// sign adds the headers that say who sends this, what, and when.
func sign(header http.Header, secret, id string, at time.Time, body []byte) error {
	timestamp := strconv.FormatInt(at.Unix(), 10)
	signature, err := signature(secret, id, timestamp, body)
	if err != nil {
		return err
	}
	header.Set(headerID, id)
	header.Set(headerTimestamp, timestamp)
	header.Set(headerSignature, signature)
	return nil
}

// Verify is what a subscriber does with a delivery before it believes it, and returns its id.
// secrets are those that it may have been signed with, more than one while they change.
func Verify(
	header http.Header, body []byte, now time.Time, secrets ...string,
) (id string, err error) {
	id, timestamp := header.Get(headerID), header.Get(headerTimestamp)
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if id == "" || err != nil {
		return "", errors.New("not a delivery: no id, or no timestamp")
	}
	if now.Sub(time.Unix(seconds, 0)).Abs() > tolerance {
		return "", fmt.Errorf("the delivery is not from the last %s", tolerance)
	}
	for _, secret := range secrets {
		want, err := signature(secret, id, timestamp, body)
		if err != nil {
			return "", err
		}
		for given := range strings.FieldsSeq(header.Get(headerSignature)) {
			if hmac.Equal([]byte(given), []byte(want)) { // takes the same time, however much is equal
				return id, nil
			}
		}
	}
	return "", errors.New("the signature is of another secret, or another body")
}

func signature(secret, id, timestamp string, body []byte) (string, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, secretPrefix))
	if err != nil {
		return "", errors.New("the secret is not whsec_ and base64") // without the secret
	}
	hash := hmac.New(sha256.New, key)
	hash.Write([]byte(id + "." + timestamp + "."))
	hash.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(hash.Sum(nil)), nil
}
