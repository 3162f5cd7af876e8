//! One question about each of many things.

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};

/// Questions that wait for their answers at the same time.
const AT_A_TIME: usize = 64;

/// The answers about each of `all`, in the same order, asked for side by side: a thousand bindings would
/// wait for a thousand round trips otherwise.
///
/// # Errors
/// The first, in that order; what is still under way is given up.
pub(super) fn each<'a, T, A, E, F>(
    all: impl IntoIterator<Item = T>,
    ask: impl Fn(T) -> F,
) -> BoxFuture<'a, Result<Vec<A>, E>>
where
    A: Send + 'a,
    E: Send + 'a,
    F: Future<Output = Result<A, E>> + Send + 'a,
{
    let questions: Vec<BoxFuture<'a, _>> =
        all.into_iter().map(|one| -> BoxFuture<'a, _> { Box::pin(ask(one)) }).collect();
    stream::iter(questions).buffered(AT_A_TIME).try_collect().boxed()
}
