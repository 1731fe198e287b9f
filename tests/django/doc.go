// Package django tries cqrsync and django-cqrs with each other, as docs/from-django.md says that
// they may be mixed: masters and replicas of both kinds on one RabbitMQ, services that change from
// one to the other while messages are under way, and diffs of which each stage is one or the
// other's.
//
// project/ is a Django project of two services, shop and search. It runs in an environment of
// requirements.txt that ./venv makes once, in a cache folder; without python3 or the package index
// the tests are skipped by name, unless CQRSYNC_TEST_REQUIRE has django in it.
package django
