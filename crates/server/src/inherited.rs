//! Which socket was the server given by its supervisor?
//!
//! systemd opens the socket of a `.socket` unit itself and passes it on, so that it is open while no server is. The
//! descriptor is only a number here, and taking a number for a socket is what unsafe code is for; a duplicate of it, which the
//! kernel makes of a number, is ours.

use std::io;
use tokio::net::TcpListener;

/// The socket that was passed, if one was.
///
/// # Errors
/// If there are several, or if it is none to accept TCP connections on.
#[cfg(target_os = "linux")]
pub(crate) fn listener() -> io::Result<Option<TcpListener>> {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let mut passed = sd_notify::listen_fds()?;
    let Some(number) = passed.next() else { return Ok(None) };
    if passed.next().is_some() {
        return Err(io::Error::other("several were passed, and one is wanted"));
    }
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    let listener = std::net::TcpListener::from(pidfd_getfd(own, number, PidfdGetfdFlags::empty())?);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener).map(Some)
}

/// Nobody passes any elsewhere.
#[cfg(not(target_os = "linux"))]
pub(crate) fn listener() -> io::Result<Option<TcpListener>> {
    Ok(None)
}
