"""Several handlers over several streams: each handler has its own cursor, and gets every record of its streams."""

import shutil

from dq import App, BrokerManager

PLACE = "queue_data/examples/16_streams_and_handlers"
shutil.rmtree(PLACE, ignore_errors=True)  # each run begins anew

with BrokerManager(PLACE) as broker:
    app, cash, packed = App(broker, sink="shop"), [], []

    @app.handler("orders", "refunds")
    def keep_books(money: dict) -> None:
        cash.append(money["amount"])

    @app.handler("orders", max_in_flight=1)
    def pack(order: dict) -> None:
        packed.append(order["item"])
        app.publish("parcels", order["item"])

    @app.handler("parcels", max_in_flight=1)
    def ship(item: str) -> None:
        print("shipped", item)

    for item, amount in (("book", 20), ("pen", 3)):
        app.publish("orders", {"item": item, "amount": amount})
    app.publish("refunds", {"item": "ink", "amount": -7})
    app.run(burst=True)
    print("packed", sorted(packed), "cash", sum(cash))
