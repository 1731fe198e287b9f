"""The copies that a replica keeps. Nothing here is different because a master or a neighbour is Go."""
from django.db import models
from dj_cqrs.mixins import ReplicaMixin


class Account(ReplicaMixin):
    CQRS_ID = 'account'

    id = models.BigIntegerField(primary_key=True)
    name = models.CharField(max_length=100)
    email = models.EmailField(null=True)
    balance = models.DecimalField(max_digits=12, decimal_places=2)
    active = models.BooleanField()
    score = models.FloatField(null=True)
    points = models.BigIntegerField()
    born = models.DateField(null=True)
    seen = models.DateTimeField(null=True)
    profile = models.JSONField(null=True)


class Publisher(ReplicaMixin):
    CQRS_ID = 'publisher'

    id = models.BigIntegerField(primary_key=True)
    name = models.CharField(max_length=100)


class Book(ReplicaMixin):
    CQRS_ID = 'book'
    CQRS_MAPPING = {'id': 'id', 'title': 'title', 'publisher': 'publisher_id'}

    id = models.BigIntegerField(primary_key=True)
    title = models.CharField(max_length=100)
    publisher_id = models.BigIntegerField(null=True)


class Device(ReplicaMixin):
    CQRS_ID = 'device'

    id = models.UUIDField(primary_key=True)
    label = models.CharField(max_length=100)


class Article(ReplicaMixin):
    CQRS_ID = 'article'
    CQRS_CUSTOM_SERIALIZATION = True

    id = models.BigIntegerField(primary_key=True)
    title = models.CharField(max_length=100)

    @classmethod
    def cqrs_create(cls, sync, mapped_data, previous_data=None, meta=None):
        return cls(id=mapped_data['id']).cqrs_update(sync, mapped_data)

    def cqrs_update(self, sync, mapped_data, previous_data=None, meta=None):
        self.title = mapped_data['title']
        self.cqrs_revision = mapped_data['cqrs_revision']
        self.cqrs_updated = mapped_data['cqrs_updated']
        self.save()
        self.authors.all().delete()
        for author in mapped_data['authors']:
            self.authors.create(id=author['id'], name=author['name'])
        return self


class Author(models.Model):
    id = models.BigIntegerField(primary_key=True)
    article = models.ForeignKey(Article, related_name='authors', on_delete=models.CASCADE)
    name = models.CharField(max_length=100)
