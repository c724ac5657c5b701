//! Parses `/proc/meminfo`.

/// The amount of this name in bytes, from the file's text; `None` if it has none.
pub fn bytes(text: &str, name: &str) -> Option<u64> {
    let amount = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    amount.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_amount_is_found_by_its_whole_name() {
        let text = "MemTotal:       24684000 kB\nDirty:                44 kB\nWritebackTmp:          8 kB\nHugePages_Total:       0\n";
        assert_eq!(super::bytes(text, "Dirty"), Some(44 << 10));
        assert_eq!(super::bytes(text, "Writeback"), None);
        assert_eq!(super::bytes(text, "HugePages_Total"), None, "that is a number of pages");
    }
}
