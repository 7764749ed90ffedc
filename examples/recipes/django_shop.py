"""Taskmill in Django: a task is submitted when the transaction that made the order has committed, and only then.

TASKMILL_API_URL=http://localhost:3000 TASKMILL_API_KEY=… python django_shop.py runserver
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial

import django
from django.conf import settings
from django.core.management import execute_from_command_line
from django.db import connection, models, transaction
from django.http import Http404, HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from shop_tasks import send_receipt

from taskmill.errors import NotFound

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    DATABASES={
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("SHOP_DB", "shop.sqlite3")}
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()


class Order(models.Model):
    number = models.IntegerField(unique=True)
    email = models.EmailField()

    class Meta:
        app_label = "shop"


@csrf_exempt
def orders(request: HttpRequest) -> JsonResponse:
    if request.method != "POST":
        return JsonResponse({"orders": list(Order.objects.values_list("number", flat=True))})
    given = json.loads(request.body)
    with transaction.atomic():
        made = Order.objects.create(number=given["number"], email=given["email"])
        transaction.on_commit(partial(send_receipt.submit_sync, order=made.number, to=made.email))
        if given.get("card") == "declined":
            transaction.set_rollback(True)  # no order, and no receipt
    return JsonResponse({"number": made.number}, status=202)


def task(request: HttpRequest, id: str) -> JsonResponse:
    try:
        seen = send_receipt.submitted(id).look_sync()
    except NotFound:
        raise Http404 from None
    return JsonResponse({"status": seen.status.name, "error": seen.error})


urlpatterns = [path("orders", orders), path("tasks/<id>", task)]

if __name__ == "__main__":
    with connection.schema_editor() as schema:
        if Order._meta.db_table not in connection.introspection.table_names():
            schema.create_model(Order)
    execute_from_command_line(sys.argv)
