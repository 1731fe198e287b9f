"""Runs what the test tells it, in a process that stays: starting Django takes longer than most of it."""
import contextlib
import datetime
import decimal
import json
import sys
import traceback
import uuid

from django.apps import apps
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import transaction


def tables(app, using):
    """All rows of a service's tables, each value as Django reads it."""
    return {
        model.__name__: rows(model, using) for model in apps.get_app_config(app).get_models()
    }


def rows(model, using):
    fields = [f.attname for f in model._meta.fields]
    return [
        dict(zip(fields, map(plain, row)))
        for row in model._base_manager.using(using).order_by('pk').values_list(*fields)
    ]


def plain(value):
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.timezone.utc).isoformat()
    if isinstance(value, (datetime.date, uuid.UUID, decimal.Decimal)):
        return str(value)
    return value


class Command(BaseCommand):
    help = 'Each line of the input is a JSON string of Python; its variable answer is printed.'

    def handle(self, *args, **options):
        names = {model.__name__: model for model in apps.get_models()}
        names |= {
            'tables': tables,
            'call_command': call_command,
            'atomic': transaction.atomic,
            'Decimal': decimal.Decimal,
            'UUID': uuid.UUID,
            'date': datetime.date,
            'datetime': datetime.datetime,
            'utc': datetime.timezone.utc,
        }
        for line in sys.stdin:
            try:
                scope = dict(names)
                with contextlib.redirect_stdout(sys.stderr):
                    exec(json.loads(line), scope)
                reply = {'answer': scope.get('answer')}
            except Exception:
                reply = {'error': traceback.format_exc()}
            print(json.dumps(reply), flush=True)
