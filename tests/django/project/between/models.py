"""A service between two others: a replica of tickets, and the master of what it makes of them."""
from django.db import models
from dj_cqrs.mixins import MasterMixin, ReplicaMixin


class Answer(MasterMixin):
    CQRS_ID = 'answer'

    id = models.BigIntegerField(primary_key=True)
    text = models.CharField(max_length=100)

    def get_cqrs_meta(self, **kwargs):
        return {'traceparent': self.traceparent}


class Ticket(ReplicaMixin):
    CQRS_ID = 'ticket'
    CQRS_META = True

    id = models.BigIntegerField(primary_key=True)
    text = models.CharField(max_length=100)

    @classmethod
    def cqrs_create(cls, sync, mapped_data, previous_data=None, meta=None):
        ticket = cls.objects.create(**mapped_data)
        answer = Answer(id=ticket.id, text='about ' + ticket.text)
        answer.traceparent = (meta or {}).get('traceparent')
        answer.save()
        return ticket
