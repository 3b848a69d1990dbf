//! Receives a handoff.

use crate::client::{Client, Input, Output};
use crate::sys::receive_descriptor;
use std::collections::HashMap;
use std::io::{Cursor, Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Take one handoff: the client, and its input, which begins with the request head once more.
/// Not a byte behind the handoff is read: with KTLS_RX=0 that is input.
pub fn receive(mut unix: UnixStream) -> Result<(Client, impl Read)> {
    unix.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (mut byte, descriptor) = receive_descriptor(&unix)?;
    let mut size = 0;
    while byte != b':' {
        if !byte.is_ascii_digit() || size > 1 << 20 {
            return Err(Error::new(ErrorKind::InvalidData, "expected the length of a netstring"));
        }
        size = 10 * size + usize::from(byte - b'0');
        unix.read_exact(std::slice::from_mut(&mut byte))?;
    }
    let mut body = vec![0; size + 1];
    unix.read_exact(&mut body)?;
    unix.set_read_timeout(Some(Duration::from_secs(15)))?;
    let environ = parse(&body)?;
    let output = TcpStream::from(descriptor);
    let input = match environ.get("KTLS_RX").map(String::as_str) {
        Some("0") => {
            unix.write_all(&[6])?; // RECEIVED: then a cut is an error, and no end of file
            TcpStream::from(OwnedFd::from(unix))
        }
        _ => output.try_clone()?,
    };
    let input = Cursor::new(request_head(&environ)).chain(Input(input));
    Ok((Client { environ, output: Output(output) }, input))
}

fn parse(body: &[u8]) -> Result<HashMap<String, String>> {
    let text: String = body.iter().map(|&byte| char::from(byte)).collect(); // Latin-1 loses nothing
    let words: Vec<&str> = text.split('\0').collect();
    let pairs = words.chunks_exact(2).map(|pair| (pair[0].to_string(), pair[1].to_string()));
    let environ: HashMap<_, _> = pairs.collect();
    let is_ours = environ.get("KTLSGATE").map(String::as_str) == Some("1");
    if environ.contains_key("KTLSGATE_CONNECTION") { // it waits for RECEIVED
        return Err(Error::new(ErrorKind::InvalidData, "expected kept_connections = 0 in the gate"));
    }
    match words.last() {
        Some(&",") if is_ours && words.len() % 2 == 1 => Ok(environ),
        _ => Err(Error::new(ErrorKind::InvalidData, "expected pairs, KTLSGATE 1, and a comma")),
    }
}

/// Write the head that the gate has read once more, so that all requests are read alike.
fn request_head(environ: &HashMap<String, String>) -> String {
    let is_single = environ["KTLSGATE_KEEPALIVE"] == "single"; // a later one may be another route's
    let header = |(name, value): (&String, &String)| match name.strip_prefix("HTTP_") {
        Some("CONNECTION") if is_single => String::new(),
        Some(name) => format!("{}: {value}\r\n", name.replace('_', "-")),
        None => String::new(),
    };
    let headers: String = environ.iter().map(header).collect();
    let end = if is_single { "Connection: close\r\n" } else { "" };
    let get = |name: &str| environ[name].as_str();
    format!(
        "{} {} {}\r\n{end}{headers}\r\n",
        get("REQUEST_METHOD"),
        get("REQUEST_URI"),
        get("SERVER_PROTOCOL")
    )
}
