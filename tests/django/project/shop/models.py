"""The master's models, with a field of each type that a service is likely to have."""
import uuid

from django.db import models
from dj_cqrs.mixins import MasterMixin


class Account(MasterMixin):
    CQRS_ID = 'account'
    CQRS_TRACKED_FIELDS = ('name', 'balance')

    name = models.CharField(max_length=100)
    email = models.EmailField(null=True)
    balance = models.DecimalField(max_digits=12, decimal_places=2, default=0)
    active = models.BooleanField(default=True)
    score = models.FloatField(null=True)
    points = models.BigIntegerField(default=0)
    born = models.DateField(null=True)
    seen = models.DateTimeField(null=True)
    profile = models.JSONField(null=True)


class Publisher(MasterMixin):
    CQRS_ID = 'publisher'

    name = models.CharField(max_length=100)


class Book(MasterMixin):
    """It has a foreign key, which django-cqrs sends as `publisher`; the column is `publisher_id`."""

    CQRS_ID = 'book'
    CQRS_TRACKED_FIELDS = ('title', 'publisher')

    title = models.CharField(max_length=100)
    publisher = models.ForeignKey(Publisher, null=True, on_delete=models.CASCADE)


class Device(MasterMixin):
    """Its key is a UUID: a column uuid on PostgreSQL."""

    CQRS_ID = 'device'

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    label = models.CharField(max_length=100)


class Article(MasterMixin):
    """It is sent with its authors, by a serializer of its own."""

    CQRS_ID = 'article'
    CQRS_SERIALIZER = 'shop.serializers.ArticleSerializer'

    title = models.CharField(max_length=100)

    @classmethod
    def relate_cqrs_serialization(cls, queryset):
        return queryset.prefetch_related('authors')

    def get_custom_cqrs_delete_data(self):
        return {'title': self.title}


class Author(models.Model):
    article = models.ForeignKey(Article, related_name='authors', on_delete=models.CASCADE)
    name = models.CharField(max_length=100)
