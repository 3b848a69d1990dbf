//! Four calls of Linux that the standard library does not have, on machines of 64 bits.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::null;

#[repr(C)]
struct Bytes {
    start: *mut u8,
    size: usize,
}

#[repr(C)]
struct Message {
    name: *const u8,
    name_size: u32,
    bytes: *const Bytes,
    bytes_count: usize,
    control: *mut Control,
    control_size: usize,
    flags: i32,
}

#[repr(C)]
struct Control {
    size: usize, // the data's, and 16
    level: i32,
    kind: i32,
    data: [i32; 4],
}

#[repr(C)]
struct Poll {
    fd: i32,
    events: i16,
    found: i16,
}

extern "C" {
    fn recvmsg(fd: i32, message: *mut Message, flags: i32) -> isize;
    fn sendmsg(fd: i32, message: *const Message, flags: i32) -> isize;
    fn sendfile(to: i32, from: i32, offset: *mut i64, count: usize) -> isize;
    fn poll(fds: *mut Poll, count: usize, milliseconds: i32) -> i32;
}

pub const POLLIN: i16 = 1;
pub const POLLOUT: i16 = 4;
const MSG_CTRUNC: i32 = 8;
const MSG_CMSG_CLOEXEC: i32 = 0x4000_0000;
const MSG_DONTWAIT_NOSIGNAL: i32 = 0x4040;

fn message(bytes: &Bytes, control: &mut Control, control_size: usize) -> Message {
    Message { name: null(), name_size: 0, bytes, bytes_count: 1, control, control_size, flags: 0 }
}

/// Receive one byte, and the one descriptor that must be with it.
pub fn receive_descriptor(socket: &impl AsRawFd) -> Result<(u8, OwnedFd)> {
    let mut first = 0;
    let bytes = Bytes { start: &mut first, size: 1 };
    let mut control = Control { size: 0, level: 0, kind: 0, data: [-1; 4] };
    let mut message = message(&bytes, &mut control, 32); // room for more, to see a surplus
    match unsafe { recvmsg(socket.as_raw_fd(), &mut message, MSG_CMSG_CLOEXEC) } {
        1 => {}
        0 => return Err(ErrorKind::UnexpectedEof.into()),
        _ => return Err(Error::last_os_error()),
    }
    let (flags, count) = (message.flags, control.size.saturating_sub(16) / 4);
    let is_rights = (control.level, control.kind) == (1, 1); // SOL_SOCKET, SCM_RIGHTS
    let fds = if is_rights { &control.data[..count] } else { &[] };
    // Owned, so that all of them are closed if they are refused.
    let mut fds: Vec<_> = fds.iter().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect();
    match fds.pop() {
        Some(fd) if fds.is_empty() && flags & MSG_CTRUNC == 0 => Ok((first, fd)),
        _ => Err(Error::new(ErrorKind::InvalidData, "expected one descriptor on the first byte")),
    }
}

/// Send close_notify: an alert, which is a record of type 21.
pub fn send_close_notify(socket: &impl AsRawFd) -> Result<()> {
    let mut alert = [1, 0];
    let bytes = Bytes { start: alert.as_mut_ptr(), size: 2 };
    let mut control = Control { size: 17, level: 282, kind: 1, data: [21, 0, 0, 0] };
    let message = message(&bytes, &mut control, 24); // SOL_TLS, TLS_SET_RECORD_TYPE
    match unsafe { sendmsg(socket.as_raw_fd(), &message, MSG_DONTWAIT_NOSIGNAL) } {
        2 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

/// Send the next piece of a file and move the offset behind it; how much it was, 0 at its end.
pub fn send_file(socket: &impl AsRawFd, file: &impl AsRawFd, offset: &mut i64) -> Result<isize> {
    match unsafe { sendfile(socket.as_raw_fd(), file.as_raw_fd(), offset, 1 << 20) } {
        -1 => Err(Error::last_os_error()),
        count => Ok(count),
    }
}

/// Wait until a socket is readable or writable, but not for ever.
pub fn wait(socket: &impl AsRawFd, events: i16, seconds: i32) -> Result<()> {
    let mut row = Poll { fd: socket.as_raw_fd(), events, found: 0 };
    match unsafe { poll(&mut row, 1, seconds * 1000) } {
        1 => Ok(()),
        0 => Err(ErrorKind::TimedOut.into()),
        _ => Err(Error::last_os_error()),
    }
}
