//! Where can a process be made to die, so that tests can see what is left of its work?

/// Kills this process with SIGKILL if `WINDLASS_CRASH` names this point: `name@3` dies the third time it is passed.
///
/// Without the feature `faults` this is nothing.
#[inline]
pub fn crash_point(name: &str) {
    #[cfg(feature = "faults")]
    faults::pass(name);
    #[cfg(not(feature = "faults"))]
    let _ = name;
}

#[cfg(feature = "faults")]
mod faults {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    };

    /// Where to die, and after how many passes.
    static PLAN: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
        let plan = std::env::var("WINDLASS_CRASH").ok()?;
        let (name, count) = plan.split_once('@').unwrap_or((&plan, "1"));
        Some((name.to_owned(), count.parse().ok()?))
    });
    static PASSED: AtomicU64 = AtomicU64::new(0);

    pub(super) fn pass(name: &str) {
        let Some((planned, count)) = &*PLAN else { return };
        if planned == name && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *count {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
            // The signal is on its way; whatever this thread would still do must not happen.
            loop {
                std::thread::park();
            }
        }
    }
}
