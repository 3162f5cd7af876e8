"""The same, as an async function."""

import asyncio

import conformance

met = []


async def meet(event, context):
    met.append(asyncio.get_running_loop().create_future())
    if len(met) == 2:
        for waiting in met:
            waiting.set_result(None)
    await met[len(met) - 1]
    return "met"


async def sleep(event, context):
    await asyncio.sleep(0.3)
    return "slept"


async def cancelled(event, context):
    raise asyncio.CancelledError


WHAT = {"meet": meet, "sleep": sleep, "cancelled": cancelled}


async def handle(event, context):
    if not isinstance(event, list) and event.subject in WHAT:
        return await WHAT[event.subject](event, context)
    await asyncio.sleep(0)
    return conformance.handle(event, context)
