//go:build unix

package django

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// everyKind are the writes of a Django service that send each kind of message, with keys from N on.
const everyKind = `
# SAVE: created, changed, changed in part, with values that are easily lost on the way.
ada = Account.objects.create(
    id=N + 1, name='Ada "é" / \\ 😀 \u2028', email='ada@example.org', score=0.1, points=2**53 + 1,
    balance=Decimal('1234567.89'), born=date(1815, 12, 10),
    seen=datetime(2026, 3, 29, 2, 30, 0, 123456, tzinfo=utc),
    profile={'ü': [1, None, 1.5, 'a/b'], 'in': {'x': True}})
bob = Account.objects.create(id=N + 2, name='Bob', seen=datetime(1, 1, 2, tzinfo=utc), profile=[])
bob.name, bob.email, bob.active, bob.balance = 'Bobby', 'bob@example.org', False, Decimal('-0.01')
bob.save()
bob.score = -1e-9
bob.save(update_fields=['score'])
ada.email, ada.seen, ada.profile = None, None, None
ada.save()
# DELETE, and a key that is created again, which begins with revision 0 there.
Account.objects.create(id=N + 3, name='gone').delete()
again = Account.objects.create(id=N + 4, name='first life')
again.save()
again.save()
again.delete()
Account.objects.create(id=N + 4, name='second life')
# In bulk.
Account.cqrs.bulk_create([Account(id=N + i, name=f'bulk {i}') for i in range(5, 9)])
Account.cqrs.bulk_update(Account.objects.filter(id__in=[N + 6, N + 7]), points=7)
# A transaction with several, of which each entity sends one message, and one that is rolled back.
with atomic():
    press = Publisher.objects.create(id=N + 1, name='Press')
    other = Publisher.objects.create(id=N + 2, name='Other')
    book = Book.objects.create(id=N + 1, title='In one transaction', publisher=press)
    book.title = 'In one transaction, twice'
    book.save()
    Book.objects.create(id=N + 2, title='With nobody')
    Account.objects.get(id=N + 8).delete()
try:
    with atomic():
        bob.name = 'rolled back'
        bob.save()
        raise RuntimeError
except RuntimeError:
    bob.refresh_from_db()
    bob.reset_cqrs_saves_count()
book.publisher = other
book.save()
# A serializer with the rows of a relation.
with atomic():
    article = Article.objects.create(id=N + 1, title='Two wrote it')
    article.authors.create(id=N + 1, name='One')
    article.authors.create(id=N + 2, name='Two')
with atomic():
    article.authors.get(id=N + 1).delete()
    article.authors.create(id=N + 3, name='Three')
    article.save()
Article.objects.create(id=N + 2, title='Nobody wrote it')
Article.objects.create(id=N + 3, title='gone').delete()
# Keys that are UUIDs. django-cqrs cannot send their DELETE: it fails after the commit.
device = Device.objects.create(id=UUID(int=0xABCDEF << 100 | N), label='phone')
device.label = 'tablet'
device.save()
`

// A Django master's messages, of every kind and over both of its transports, make all replicas
// equal.
func djangoIsMaster(t *testing.T, w watcher, masters map[string]*actor) {
	n := 0
	for _, transport := range []string{rabbit, kombu} {
		n += 100
		masters[transport].do(t, fmt.Sprintf("N = %d", n)+everyKind)
		w.awaitEqual(t, w.replicas...)
	}
}

// A SYNC brings what was changed without a message, in bulk to all and directly to one queue.
func djangoSyncs(t *testing.T, d deployment, w watcher, masters map[string]*actor) {
	for transport, master := range masters {
		master.do(t, `
Account.objects.filter(id__in=[101, 201]).update(name='without a message, `+transport+`')
Book.objects.filter(id=101).update(title='neither')
call_command('cqrs_sync', cqrs_id='account', filter='{"name__startswith": "without"}')
call_command('cqrs_sync', cqrs_id='book', filter='{}')
call_command('cqrs_sync', cqrs_id='article', filter='{}')`)
		w.awaitEqual(t, w.replicas...)
	}
	for _, name := range []string{rabbit, kombu, gopher, file} {
		masters[rabbit].do(t, fmt.Sprintf(`Account.objects.filter(id=102).update(name='for %s')
call_command('cqrs_sync', cqrs_id='account', filter='{"id": 102}', queue=%q)`, name, d.queue(name)))
		w.awaitEqual(t, name)
		for _, other := range w.replicas {
			if other != name {
				require.NotContains(t, fmt.Sprint(w.tables(t, "search", other)), "for "+name)
			}
		}
	}
	masters[kombu].do(t, `call_command('cqrs_sync', cqrs_id='account', filter='{}')`)
	w.awaitEqual(t, w.replicas...)
}
