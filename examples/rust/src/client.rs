//! Reads and writes a client's connection; the kernel, or the gate, does its TLS.

use crate::sys::{send_close_notify, send_file, wait, POLLIN, POLLOUT};
use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Result, Write};
use std::net::{Shutdown, TcpStream};

const EIO: i32 = 5;
const IDLE: i32 = 15; // seconds

pub struct Client {
    pub environ: HashMap<String, String>,
    pub output: Output,
}

/// The descriptor, or with KTLS_RX=0 the Unix connection. A `TcpStream` reads either.
pub struct Input(pub TcpStream);

/// The descriptor, which may be one end of a socketpair as well: a `TcpStream` writes to either.
pub struct Output(pub TcpStream);

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => wait(&self.0, POLLIN, IDLE)?,
                Err(e) if e.raw_os_error() == Some(EIO) => return Ok(0), // close_notify, nearly always
                done => return done,
            }
        }
    }
}

impl Output {
    /// O_NONBLOCK is shared with the gate, so it is not ours to take off: try, wait, try again.
    fn again<T>(&mut self, mut call: impl FnMut(&mut TcpStream) -> Result<T>) -> Result<T> {
        loop {
            match call(&mut self.0) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => wait(&self.0, POLLOUT, IDLE)?,
                done => return done,
            }
        }
    }

    pub fn send(&mut self, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            let sent = self.again(|socket| socket.write(data))?;
            data = &data[sent..];
        }
        Ok(())
    }

    pub fn send_file(&mut self, file: &File) -> Result<()> {
        let mut offset = 0;
        while self.again(|socket| send_file(socket, file, &mut offset))? > 0 {}
        Ok(())
    }

    /// Say goodbye: close_notify where the kernel encrypts, then FIN.
    pub fn end(&mut self, environ: &HashMap<String, String>) -> Result<()> {
        if matches!(environ["KTLSGATE_MODE"].as_str(), "both" | "tx") {
            self.again(|socket| send_close_notify(socket))?;
        }
        self.0.shutdown(Shutdown::Write)
    }
}
