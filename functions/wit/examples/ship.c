// A function for the world of ../event.wit: sends every payload on. ../README.md says how it is built.
#include <stdlib.h>
#include <string.h>
#include "function.h"

typedef exports_pelton_event_handler_call_t call_t;
typedef exports_pelton_event_handler_output_t output_t;
typedef exports_pelton_event_handler_reply_t reply_t;
typedef exports_pelton_event_handler_verdict_t verdict_t;

void exports_pelton_event_handler_handle(call_t *call, reply_t *reply) {
    size_t count = call->events.len;
    verdict_t *verdicts = calloc(count, sizeof *verdicts);
    for (size_t n = 0; n < count; n++) {
        output_t *output = calloc(1, sizeof *output);
        output->data.len = call->events.ptr[n].data.len;
        output->data.ptr = malloc(output->data.len + 1);
        memcpy(output->data.ptr, call->events.ptr[n].data.ptr, output->data.len);
        verdicts[n].val.ok.ptr = output;
        verdicts[n].val.ok.len = 1;
    }
    memset(reply, 0, sizeof *reply);
    reply->verdicts.ptr = verdicts;
    reply->verdicts.len = count;
    exports_pelton_event_handler_call_free(call);
}
