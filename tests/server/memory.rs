//! What a process takes, as Linux counts it.

use std::fs;

use crate::common::program::Program;

/// In bytes.
pub struct Memory {
    pub now: usize,
    /// Since it started.
    pub most: usize,
}

impl Memory {
    pub fn of(program: &Program) -> Memory {
        let status = fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap();
        let bytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_suffix(" kB"));
            line.unwrap().parse::<usize>().unwrap() * 1024
        };
        Memory { now: bytes("VmRSS:"), most: bytes("VmHWM:") }
    }
}
