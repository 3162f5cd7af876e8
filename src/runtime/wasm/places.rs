//! Who may run. The pool has a number of places for all functions of this program; half of them are
//! set aside in fair shares, the other half is for whoever comes first. So one function with enough
//! stuck calls holds its share and the common half, and never what is set aside for another.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::warn;

/// Instances that run at the same time, of all functions together.
pub(super) const RUNNING_MAX: usize = 192;
/// Those of them that are set aside.
const SHARED_OUT: usize = RUNNING_MAX / 2;

static COMMON: Semaphore = Semaphore::const_new(RUNNING_MAX - SHARED_OUT);
static SHARES: Mutex<Vec<Weak<Own>>> = Mutex::new(Vec::new());

/// A function's share of the places.
pub(super) struct Share(Arc<Own>);

struct Own {
    /// Calls that it may have in flight.
    wanted: usize,
    places: Semaphore,
    size: Mutex<Size>,
}

#[derive(Default)]
struct Size {
    /// Places that are its own.
    places: usize,
    /// Places that are another's by now, and somebody is still in.
    overdue: usize,
}

/// A place to run in, as long as it is held.
pub(super) struct Place<'a> {
    permit: Option<SemaphorePermit<'a>>,
    /// Whose share it is from.
    own: Option<&'a Own>,
}

impl Share {
    /// One more function.
    pub(super) fn new(function: &str, wanted: usize) -> Self {
        let own = Arc::new(Own { wanted, places: Semaphore::new(0), size: Mutex::default() });
        let mut shares = SHARES.lock().unwrap_or_else(PoisonError::into_inner);
        let before: usize = shares.iter().filter_map(Weak::upgrade).map(|own| own.wanted).sum();
        if before <= RUNNING_MAX && before + wanted > RUNNING_MAX {
            warn!(
                function,
                wanted = before + wanted,
                most = RUNNING_MAX,
                "WebAssembly functions may have more events in flight than instances can run: \
                 some will wait, and no function for those of another"
            );
        }
        shares.push(Arc::downgrade(&own));
        divide(&mut shares);
        Self(own)
    }

    /// Waits for a place: one of its own, or a common one.
    pub(super) async fn place(&self) -> Place<'_> {
        let own = &self.0;
        // Closed is neither, ever.
        let (permit, own) = tokio::select! {
            biased;
            permit = own.places.acquire() => (permit, Some(&**own)),
            permit = COMMON.acquire() => (permit, None),
        };
        Place { permit: permit.ok(), own }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut shares = SHARES.lock().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|other| other.as_ptr() != Arc::as_ptr(&self.0));
        divide(&mut shares);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(own) = self.own else { return };
        let Some(permit) = self.permit.take() else { return };
        let mut size = own.size.lock().unwrap_or_else(PoisonError::into_inner);
        match size.overdue.checked_sub(1) {
            Some(overdue) => {
                size.overdue = overdue;
                permit.forget();
            }
            // Given back under the lock, so that nobody counts it as in use meanwhile.
            None => drop(permit),
        }
    }
}

/// Gives each what it wants, and all the same where that is too much.
fn divide(shares: &mut [Weak<Own>]) {
    let mut all: Vec<Arc<Own>> = shares.iter().filter_map(Weak::upgrade).collect();
    all.sort_by_key(|own| own.wanted);
    let (mut left, count) = (SHARED_OUT, all.len());
    for (index, own) in all.iter().enumerate() {
        let places = own.wanted.min(left / (count - index));
        left -= places;
        own.resize(places);
    }
}

impl Own {
    fn resize(&self, places: usize) {
        let mut size = self.size.lock().unwrap_or_else(PoisonError::into_inner);
        if places > size.places {
            let more = places - size.places;
            let stay = more.min(size.overdue);
            size.overdue -= stay;
            self.places.add_permits(more - stay);
        } else {
            let less = size.places - places;
            size.overdue += less - self.places.forget_permits(less);
        }
        size.places = places;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(wanted: usize) -> Arc<Own> {
        Arc::new(Own { wanted, places: Semaphore::new(0), size: Mutex::default() })
    }

    fn divided(wanted: &[usize]) -> Vec<usize> {
        let all: Vec<_> = wanted.iter().copied().map(own).collect();
        divide(&mut all.iter().map(Arc::downgrade).collect::<Vec<_>>());
        all.iter().map(|own| own.places.available_permits()).collect()
    }

    #[test]
    fn shares_are_what_is_wanted_and_fair_where_that_is_too_much() {
        assert_eq!(divided(&[4, 16]), [4, 16]);
        assert_eq!(divided(&[1000, 4, 1000]), [46, 4, 46]);
        assert_eq!(divided(&[1000; 3]).iter().sum::<usize>(), SHARED_OUT);
        assert!(divided(&[1; 200]).iter().sum::<usize>() <= SHARED_OUT);
    }

    #[test]
    fn a_share_that_shrinks_takes_back_what_is_in_use_when_it_is_free() {
        let own = own(8);
        own.resize(8);
        let held: Vec<_> = (0..6).map(|_| own.places.try_acquire().unwrap()).collect();
        own.resize(3);
        assert_eq!(own.places.available_permits(), 0);
        let mut places: Vec<_> = held
            .into_iter()
            .map(|permit| Place { permit: Some(permit), own: Some(&own) })
            .collect();
        own.resize(4);
        places.truncate(4);
        assert_eq!(own.places.available_permits(), 0, "those two were overdue");
        places.clear();
        assert_eq!(own.places.available_permits(), 4);
    }
}
