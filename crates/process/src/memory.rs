//! Reads the memory of a live process.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;
use std::time::Duration;

use image::{Avma, Memory, ReadRequest, Unreadable};
use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::procdir::ProcDir;
use crate::process::readable_within;

/// The memory of a live process, by addresses of its own address space. It is read while the process
/// runs, so that a read of several words may see them at different moments.
///
/// Reads by `process_vm_readv`; where that call is forbidden (a seccomp filter) or missing, by
/// `/proc/PID/mem`. Both need `PTRACE_MODE_ATTACH_REALCREDS`.
#[derive(Debug)]
pub struct ProcessMemory {
    tid: Pid,
    pidfd: OwnedFd,
    dir: ProcDir,
    /// Set when the system call cannot be used; `Err` when the file cannot be either.
    mem: OnceLock<Result<File, Errno>>,
}

impl ProcessMemory {
    pub(crate) fn new(tid: i32, pidfd: OwnedFd, dir: ProcDir) -> Self {
        Self { tid: Pid::from_raw(tid), pidfd, dir, mem: OnceLock::new() }
    }

    /// Reads from `addr` on until `buf` is full or the next byte is unreadable. Returns the number
    /// of bytes: at least one.
    ///
    /// # Errors
    /// The system's error when not even the first byte can be read: `EFAULT` or `EIO` where
    /// nothing is mapped, `EPERM` or `EACCES` without the right, `ESRCH` once the process is gone.
    pub fn read_upto(&self, addr: Avma, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let n = match self.mem.get() {
            Some(file) => read_file(file, addr, buf)?,
            None => match self.read_call(addr, buf) {
                Err(Errno::ENOSYS | Errno::EPERM) => {
                    let file = self.mem.get_or_init(|| {
                        let open = self.dir.open_file("mem");
                        open.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))
                    });
                    read_file(file, addr, buf)?
                }
                other => other?,
            },
        };
        // The call goes by PID. As the process is still alive, the memory was its own.
        if readable_within(self.pidfd.as_fd(), Some(Duration::ZERO))? {
            return Err(Errno::ESRCH.into());
        }
        if n == 0 { Err(Errno::EFAULT.into()) } else { Ok(n) }
    }

    fn read_call(&self, addr: Avma, buf: &mut [u8]) -> Result<usize, Errno> {
        let base = usize::try_from(addr.0).map_err(|_| Errno::EFAULT)?;
        let mut done = 0;
        // A partial transfer ends at an unreadable page; the next call confirms it.
        while done < buf.len() {
            let at = base.checked_add(done).ok_or(Errno::EFAULT)?;
            let remote = [RemoteIoVec { base: at, len: buf.len() - done }];
            let mut local = [IoSliceMut::new(&mut buf[done..])];
            match process_vm_readv(self.tid, &mut local, &remote) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// Checks whether memory can be read at all, with one byte at `addr`.
    ///
    /// # Errors
    /// As [`ProcessMemory::read_upto`].
    pub fn probe(&self, addr: Avma) -> io::Result<()> {
        self.read_upto(addr, &mut [0]).map(drop)
    }
}

fn read_file(file: &Result<File, Errno>, addr: Avma, buf: &mut [u8]) -> io::Result<usize> {
    let file = file.as_ref().map_err(|e| *e)?;
    let mut done = 0;
    while done < buf.len() {
        let Some(at) = addr.0.checked_add(done as u64) else { break };
        match file.read_at(&mut buf[done..], at) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if done > 0 => break,
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// The kernel accepts at most this many ranges per call (UIO_MAXIOV).
const MAX_REQUESTS: usize = 1024;

impl ProcessMemory {
    /// Serves requests with one system call. Returns how many were read completely: fewer than all if
    /// the next one is unreadable or the call cannot be used.
    fn read_call_many(&self, requests: &mut [ReadRequest]) -> usize {
        let remote: Vec<RemoteIoVec> = requests
            .iter()
            .map(|p| RemoteIoVec { base: p.at.0 as usize, len: p.bytes.len() })
            .collect();
        let mut local: Vec<IoSliceMut<'_>> =
            requests.iter_mut().map(|p| IoSliceMut::new(&mut p.bytes)).collect();
        let mut done = process_vm_readv(self.tid, &mut local, &remote).unwrap_or(0);
        let whole = |r: &&RemoteIoVec| {
            let enough = done >= r.len;
            done = done.saturating_sub(r.len);
            enough
        };
        remote.iter().take_while(whole).count()
    }
}

impl Memory for ProcessMemory {
    fn read_many(&self, requests: &mut [ReadRequest]) {
        let mut rest = requests;
        while !rest.is_empty() {
            let most = rest.len().min(MAX_REQUESTS);
            let read =
                if self.mem.get().is_some() { 0 } else { self.read_call_many(&mut rest[..most]) };
            let gone = readable_within(self.pidfd.as_fd(), Some(Duration::ZERO)).unwrap_or(true);
            rest[..read].iter_mut().for_each(|p| p.readable = !gone);
            rest = &mut rest[read..];
            // The part that stopped the call is read alone, where there is a fallback.
            if let (Some(part), true) = (rest.first_mut(), read < most) {
                part.readable = self.read(part.at, &mut part.bytes).is_ok();
                rest = &mut rest[1..];
            }
        }
    }

    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        match self.read_upto(addr, buf) {
            Ok(n) if n == buf.len() => Ok(()),
            _ => Err(Unreadable(addr)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Process;

    #[test]
    fn both_ways_of_reading_agree() {
        let me = Process::open(i32::try_from(std::process::id()).unwrap()).unwrap();
        let secret: Vec<u8> = (0..10_000u32).map(|i| (i * 7) as u8).collect();
        let addr = Avma(secret.as_ptr() as u64);
        let by_call = me.memory().unwrap();
        let by_file = me.memory().unwrap();
        by_file.mem.set(Ok(me.dir.open_file("mem").unwrap())).unwrap();
        for memory in [&by_call, &by_file] {
            let mut out = vec![0; secret.len()];
            memory.read(addr, &mut out).unwrap();
            assert_eq!(out, secret);
            assert_eq!(memory.read(Avma(8), &mut out), Err(Unreadable(Avma(8))));
            assert_eq!(
                memory.read(Avma(u64::MAX - 3), &mut out),
                Err(Unreadable(Avma(u64::MAX - 3)))
            );
            assert_eq!(memory.read_upto(addr, &mut []).unwrap(), 0);
            let mut requests: Vec<ReadRequest> =
                (0..3000).map(|i| ReadRequest::new(addr.wrapping_add(i), 8)).collect();
            requests[1500].at = Avma(8);
            requests[2999].at = Avma(16);
            memory.read_many(&mut requests);
            for (i, request) in requests.iter().enumerate() {
                let broken = [1500, 2999].contains(&i);
                assert_eq!(request.readable, !broken, "{i}");
                assert!(broken || request.bytes == secret[i..i + 8], "{i}");
            }
        }
    }
}
