"""One project for both services: SERVICE is shop, the master, or search, a replica."""
import os
from urllib.parse import parse_qs, unquote, urlsplit

import pymysql

# Django asks for mysqlclient, which has to be compiled, by this name and version.
pymysql.version_info = (2, 2, 1, 'final', 0)
pymysql.install_as_MySQLdb()


def database(url):
    """A DATABASES entry for postgres://…, mysql://… or sqlite://FILE."""
    u = urlsplit(url)
    if u.scheme == 'sqlite':
        return {
            'ENGINE': 'django.db.backends.sqlite3',
            'NAME': url.removeprefix('sqlite://'),
            # Another service has the file open, too: begin writing with the lock, and wait for it.
            'OPTIONS': {'timeout': 30, 'transaction_mode': 'IMMEDIATE'},
        }
    if u.scheme == 'mysql':
        return {
            'ENGINE': 'django.db.backends.mysql',
            'HOST': u.hostname,
            'PORT': u.port or 3306,
            'USER': unquote(u.username or ''),
            'PASSWORD': unquote(u.password or ''),
            'NAME': u.path.lstrip('/'),
        }
    query = {name: values[0] for name, values in parse_qs(u.query).items()}
    options = {'sslmode': query['sslmode']} if 'sslmode' in query else {}
    if 'search_path' in query:
        options['options'] = '-csearch_path=' + query['search_path']
    if 'options' in query:
        options['options'] = query['options']
    return {
        'ENGINE': 'django.db.backends.postgresql',
        'HOST': u.hostname,
        'PORT': u.port or 5432,
        'USER': unquote(u.username or ''),
        'PASSWORD': unquote(u.password or ''),
        'NAME': u.path.lstrip('/'),
        'OPTIONS': options,
    }


SERVICE = os.environ['SERVICE']
SECRET_KEY = 'of a test'
USE_TZ = True
TIME_ZONE = 'UTC'
DEFAULT_AUTO_FIELD = 'django.db.models.BigAutoField'
# The test's own process looks at the tables of both: shop,search.
INSTALLED_APPS = ['dj_cqrs', 'actions', *SERVICE.split(',')]
# DATABASE is this service's own; DATABASE_x the database x, which only the test looks at.
DATABASES = {'default': database(os.environ['DATABASE'])} | {
    name.removeprefix('DATABASE_'): database(url)
    for name, url in os.environ.items()
    if name.startswith('DATABASE_')
}

CQRS = {
    'transport': os.environ.get('TRANSPORT', 'dj_cqrs.transport.RabbitMQTransport'),
    'url': os.environ['BROKER'],
    'exchange': os.environ.get('EXCHANGE', 'cqrs'),
    'master': {'CQRS_AUTO_UPDATE_FIELDS': True},
}
if SERVICE != 'shop':
    CQRS['queue'] = os.environ['QUEUE']
    CQRS['replica'] = {'CQRS_RETRY_DELAY': 1}

LOGGING = {
    'version': 1,
    'handlers': {'stderr': {'class': 'logging.StreamHandler'}},
    'loggers': {'django-cqrs': {'handlers': ['stderr'], 'level': os.environ.get('LOG', 'WARNING')}},
}
