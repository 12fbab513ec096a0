"""The far side of the ``command:`` runtime: Python 3.8, numpy and onnxruntime 1.15 suffice.

These files import nothing of this project but each other, and only so (``from .frames import ...``): they are
sent to the other side as one text, see :mod:`obs_onnx.runtimes.command.bundle`. ``frames`` and ``arrays`` are
what goes over the pipe, ``models`` runs models, ``cores`` knows the machine, ``server`` answers requests.

It answers requests on its standard input, one after the other, on its standard output; whatever else prints
there goes to standard error. It first says ``GREETING``. Then both sides send frames, all numbers big-endian:

    4 bytes  "OBSF"
    4 bytes  H, length of the header
    8 bytes  P, length of the payload
    H bytes  header, a JSON object in UTF-8
    P bytes  payload

A request's header has ``id`` and ``op``. The answer repeats the ``id`` and has ``ok``; if that is false,
``kind`` (model, data, missing, request or internal) and ``error``, one line. The requests:

    hello                                     -> protocol, runtime, version, providers, python, cpu, cores ...
    load    files, threads, provider,         -> handle, threads, inputs, outputs
            options, custom_ops; payload: the files, the model first, external data after it
    run     handle, outputs, arrays; payload  -> arrays; payload
    time    handle, runs, arrays; payload     -> seconds, affinity; without arrays on those of the last time
    unload  handle                            ->

``arrays`` lists name, type, shape and bytes of each array, whose raw little-endian values are the payload,
one after the other; bfloat16 is its 16 bits; strings are all their lengths as uint32, then their UTF-8.
"""
