# Writes what a Django replica holds, a file for each model, as cqrs_bulk_dump writes what its
# master has.
import json

from dj_cqrs.registries import ReplicaRegistry

for cqrs_id, model in ReplicaRegistry.models.items():
    names = {column: name for name, column in (model.CQRS_MAPPING or {}).items()}
    with open(cqrs_id + '.held', 'w') as file:
        print(cqrs_id, file=file)
        for row in model._base_manager.values().iterator():
            print(json.dumps({names.get(c, c): v for c, v in row.items()}, default=str), file=file)
