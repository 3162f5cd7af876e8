// A function for the world of ../event.wit: ships an order. ../README.md says how it is built.
#include <stdlib.h>
#include <string.h>
#include "function.h"

typedef exports_pelton_event_handler_call_t call_t;
typedef exports_pelton_event_handler_event_t event_t;
typedef exports_pelton_event_handler_failure_t failure_t;
typedef exports_pelton_event_handler_output_t output_t;
typedef exports_pelton_event_handler_reply_t reply_t;
typedef exports_pelton_event_handler_verdict_t verdict_t;

static function_string_t text(const char *text) {
    function_string_t copy;
    function_string_dup(&copy, text);
    return copy;
}

static void ship(const event_t *event, verdict_t *verdict) {
    failure_t *failure = &verdict->val.err;
    if (event->data.len == 0) {
        verdict->is_err = true;
        failure->tag = EXPORTS_PELTON_EVENT_HANDLER_FAILURE_REJECT;
        failure->val.reject = text("an order without a word");
        return;
    }
    function_string_t name, warehouse;
    function_string_set(&name, "WAREHOUSE");
    if (!pelton_event_config_get(&name, &warehouse)) {
        verdict->is_err = true;
        failure->tag = EXPORTS_PELTON_EVENT_HANDLER_FAILURE_RETRY;
        failure->val.retry.reason = text("no warehouse is open");
        failure->val.retry.after.is_some = true;
        failure->val.retry.after.val = 5000;
        return;
    }
    pelton_event_log_log(PELTON_EVENT_LOG_LEVEL_INFO, &warehouse);
    function_string_free(&warehouse);
    output_t *output = calloc(1, sizeof *output);
    output->data.len = event->data.len;
    output->data.ptr = malloc(event->data.len);
    memcpy(output->data.ptr, event->data.ptr, event->data.len);
    verdict->val.ok.ptr = output;
    verdict->val.ok.len = 1;
}

void exports_pelton_event_handler_handle(call_t *call, reply_t *reply) {
    size_t count = call->events.len;
    verdict_t *verdicts = calloc(count, sizeof *verdicts);
    for (size_t n = 0; n < count; n++) ship(&call->events.ptr[n], &verdicts[n]);
    memset(reply, 0, sizeof *reply);
    reply->verdicts.ptr = verdicts;
    reply->verdicts.len = count;
    exports_pelton_event_handler_call_free(call);
}
