//! Normal forms of addresses, which can be written in several ways.

use std::net::IpAddr;

use ipnet::IpNet;

/// Parses an address, alone or with a prefix (`/16`) or mask (`/255.255.0.0`), as a network. Brackets around an IPv6 address and
/// host bits are ignored.
pub fn network(text: &str) -> Option<IpNet> {
    let (address, mask) = match text.split_once('/') {
        Some((address, mask)) => (address, Some(mask)),
        None => (text, None),
    };
    let address = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
    let address: IpAddr = address.parse().ok()?;
    let net = match mask {
        None => IpNet::from(address),
        Some(mask) if mask.contains('.') && address.is_ipv4() => {
            IpNet::with_netmask(address, mask.parse().ok()?).ok()?
        }
        Some(mask) => IpNet::new(address, mask.parse().ok()?).ok()?,
    };
    Some(net.trunc())
}

/// A network in its shortest form; a single address without a prefix.
pub fn shortest(net: IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

/// A hardware address in upper case, as firewalld stores it; `None` if the text is none.
pub fn mac(text: &str) -> Option<String> {
    let is_byte = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_mac = text.split(':').count() == 6 && text.split(':').all(is_byte);
    is_mac.then(|| text.to_ascii_uppercase())
}

/// The normal form of an address in a zone, a rule or a set; anything else (`ipset:nodes`) is returned unchanged.
pub fn normal(text: &str) -> String {
    network(text).map(shortest).or_else(|| mac(text)).unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_form_however_it_is_written() {
        for (text, form) in [
            ("10.0.0.0/255.255.0.0", "10.0.0.0/16"),
            ("10.0.5.7/16", "10.0.0.0/16"),
            ("10.0.0.1/32", "10.0.0.1"),
            ("10.0.0.1/255.255.255.255", "10.0.0.1"),
            ("0.0.0.0/0.0.0.0", "0.0.0.0/0"),
            ("FD00:0:0::0001/64", "fd00::/64"),
            ("[fd00::1]", "fd00::1"),
            ("2001:DB8:0:0:0:0:0:1/128", "2001:db8::1"),
            ("aa:bb:cc:dd:ee:0f", "AA:BB:CC:DD:EE:0F"),
        ] {
            assert_eq!(normal(text), form, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_stays_as_it_is() {
        for text in [
            "ipset:Nodes",
            "10.0.0.0/33",
            "10.0.0.0/255.0.255.0",
            "fd00::/129",
            "fd00::/255.0.0.0",
            "10.0.0",
            "a:b",
            "[::1",
        ] {
            assert_eq!(normal(text), text);
        }
    }
}
