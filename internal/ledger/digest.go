package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"strconv"
	"unicode/utf8"

	"github.com/uptrace/bun"
)

// Digest tells two parts of ledgers apart: equal ones have equal digests, on whatever database.
type Digest struct {
	// Keys are how many the part has.
	Keys int
	// Sum stands for all of them with their revisions.
	Sum string
	// Last is the last key that the ledger has there; More says that more of it follow, beyond the
	// limit.
	Last string
	More bool
}

// digestBlock is how many keys are hashed at a time: a sum is a hash of the hashes of blocks, so
// that a database can make them one by one. Another number is another sum.
const digestBlock = 4096

// Sum makes the sum of a digest from keys in their order.
type Sum struct {
	Keys          int
	inBlock       int // of Keys, those that block has
	blocks, block hash.Hash
	line          []byte
}

// NewSum begins one.
func NewSum() *Sum { return &Sum{blocks: sha256.New(), block: sha256.New()} }

// Add adds a key. content, where it is not empty, stands for what else is compared.
func (s *Sum) Add(key string, revision int64, content string) {
	s.line = strconv.AppendInt(s.line[:0], revision, 10)
	s.line = append(s.line, ' ')
	s.line = strconv.AppendInt(s.line, int64(utf8.RuneCountInString(key)), 10)
	s.line = append(s.line, ' ')
	s.line = append(append(s.line, key...), content...)
	_, _ = s.block.Write(s.line) // a hash never fails
	s.Keys++
	if s.inBlock++; s.inBlock == digestBlock {
		s.end(s.block.Sum(nil))
	}
}

// end adds the hash of a block, and begins the next.
func (s *Sum) end(block []byte) {
	_, _ = s.blocks.Write(block)
	s.block.Reset()
	s.inBlock = 0
}

// String ends the sum.
func (s *Sum) String() string {
	if s.inBlock > 0 {
		s.end(s.block.Sum(nil))
	}
	return base64.RawURLEncoding.EncodeToString(s.blocks.Sum(nil)[:16])
}

// Digest returns that of the live keys of a model in a range, or of its first ones where limit is
// not zero. It is made in the database where that can make it.
func (l *Ledger) Digest(
	ctx context.Context, tx bun.IDB, model string, r Range, limit int,
) (Digest, error) {
	d, sum := Digest{}, NewSum()
	for !d.More {
		most := digestBlock
		if limit > 0 {
			most = min(most, limit-sum.Keys)
		}
		n, last, err := l.addBlock(ctx, tx, model, r, most, sum)
		if err != nil {
			return d, fmt.Errorf("make a digest of the live keys of %s: %w", model, err)
		}
		if n > 0 {
			d.Last, r = last, Range{After: last, To: r.To}
		}
		if n < most {
			break
		}
		d.More = sum.Keys == limit
	}
	d.Keys, d.Sum = sum.Keys, sum.String()
	return d, nil
}

// addBlock adds up to most keys to a sum.
func (l *Ledger) addBlock(
	ctx context.Context, tx bun.IDB, model string, r Range, most int, sum *Sum,
) (n int, last string, err error) {
	query, args := l.live(model, r, most)
	whole := l.dialect.hashBlock()
	if whole == "" {
		page, err := readLive(ctx, tx, query, args)
		for _, k := range page {
			sum.Add(k.Key, k.Revision, "")
			last = k.Key
		}
		return len(page), last, err
	}
	var text string
	err = tx.QueryRowContext(ctx, l.SQL(`SELECT count(*), coalesce(max("key"), ''), `+whole+
		` FROM (`+query+`) AS page`), args...).
		Scan(&n, &last, &text)
	if err != nil || n == 0 {
		return n, last, err
	}
	block, err := hex.DecodeString(text)
	if err == nil {
		// One that is not full ends the sum: no key follows it.
		sum.end(block)
		sum.Keys += n
	}
	return n, last, err
}
