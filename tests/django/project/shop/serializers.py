class ArticleSerializer:
    """What django-cqrs wants of a serializer: a constructor that takes the instance, and data."""

    def __init__(self, article):
        self.data = {
            'id': article.pk,
            'title': article.title,
            'authors': [
                {'id': author.pk, 'name': author.name}
                for author in sorted(article.authors.all(), key=lambda author: author.pk)
            ],
        }
