//! A small server behind ktlsgate, without a crate: cargo run -- SOCKET FILE
//!
//! It answers GET / with what it was told, and GET /file with FILE, by sendfile.

mod client;
mod handoff;
mod sys;

use client::Client;
use handoff::receive;
use std::fs::File;
use std::io::{copy, sink, BufRead, BufReader, Error, ErrorKind, Read, Result};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};

struct Request {
    method: String,
    target: String,
    is_last: bool, // of its connection; so is one with a body, since nobody here reads bodies
}

/// Read a head; none at the end of input.
fn read_request(input: &mut impl BufRead) -> Result<Option<Request>> {
    let (mut head, mut input) = (String::new(), input.by_ref().take(32_768));
    while !head.ends_with("\r\n\r\n") {
        match input.read_line(&mut head)? {
            0 if head.is_empty() => return Ok(None),
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            _ => {}
        }
    }
    let mut lines = head.lines();
    let words: Vec<_> = lines.next().unwrap_or("").split(' ').collect();
    let [method, target, version] = words[..] else {
        return Err(Error::new(ErrorKind::InvalidData, "expected a request line"));
    };
    let is_last = |line: &str| match line.to_ascii_lowercase().split_once(':') {
        Some(("connection", value)) => value.contains("close"),
        Some(("content-length", value)) => value.trim() != "0",
        Some((name, _)) => name == "transfer-encoding",
        None => false,
    };
    let is_last = version != "HTTP/1.1" || lines.any(is_last);
    Ok(Some(Request { method: method.into(), target: target.into(), is_last }))
}

fn answer(request: &Request, client: &mut Client, path: &str) -> Result<()> {
    let mut file = None;
    let environ = &client.environ;
    let (status, text) = match (request.method.as_str(), request.target.as_str()) {
        ("GET", "/file") => {
            file = Some(File::open(path)?);
            ("200 OK", String::new())
        }
        ("GET", target) => {
            let (who, mode) = (&environ["REMOTE_ADDR"], &environ["KTLSGATE_MODE"]);
            ("200 OK", format!("Hello {who}, this is GET {target} by Rust, mode {mode}\n"))
        }
        _ => ("405 Method Not Allowed", "expected GET\n".into()),
    };
    let size = match &file {
        Some(file) => file.metadata()?.len(),
        None => text.len() as u64,
    };
    let end = if request.is_last { "Connection: close\r\n" } else { "" };
    let head = format!("HTTP/1.1 {status}\r\n{end}Content-Length: {size}\r\n\r\n{text}");
    client.output.send(head.as_bytes())?;
    match file {
        Some(file) => client.output.send_file(&file),
        None => Ok(()),
    }
}

fn serve(unix: UnixStream, path: &str) -> Result<()> {
    let (mut client, input) = receive(unix)?;
    let mut input = BufReader::new(input);
    while let Some(request) = read_request(&mut input)? {
        answer(&request, &mut client, path)?;
        if request.is_last {
            break;
        }
    }
    client.output.end(&client.environ)?;
    // A close over unread input is a reset, and that can destroy the answer.
    copy(&mut input.take(65_536), &mut sink()).map(|_| ())
}

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().collect();
    let [_, socket, path] = &arguments[..] else {
        return Err(Error::new(ErrorKind::InvalidInput, "usage: cargo run -- SOCKET FILE"));
    };
    let _ = std::fs::remove_file(socket); // what a killed process left
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, PermissionsExt::from_mode(0o660))?; // who may give us clients
    eprintln!("taking handoffs at {socket}");
    for unix in listener.incoming() {
        let (unix, path) = (unix?, path.clone());
        std::thread::spawn(move || match serve(unix, &path) {
            Ok(()) => {}
            Err(error) => eprintln!("a connection failed: {error}"),
        });
    }
    Ok(())
}
