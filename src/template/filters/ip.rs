//! Addresses and networks, like the filters of `ansible.utils`: what does not match a query gives `false`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use minijinja::Error;
use minijinja::value::{Value, ValueKind};

use crate::template::filters::{Call, Filter, invalid, list, text};

pub(super) const FILTERS: &[Filter] = &[
    ("ipaddr", &["query"], |call| of_version(call, None)),
    ("ipv4", &["query"], |call| of_version(call, Some(32))),
    ("ipv6", &["query"], |call| of_version(call, Some(128))),
    ("ipwrap", &["query"], |call| each(&call.value, &|value| wrapped(value, &call.text("query")?))),
    ("ipsubnet", &["query", "index"], subnet),
    ("ipmath", &["amount"], |call| {
        let net = need(&call.input()?)?;
        let amount = i128::from(call.number("amount")?.unwrap_or(0));
        let moved = net.value.checked_add_signed(amount).and_then(|value| net.at(value));
        moved.map(|moved| moved.ip()).ok_or_else(|| invalid("there is no such address"))
    }),
    ("nthhost", &["query"], |call| {
        let (net, number) = (Net::parse(&call.input()?), call.number("query")?);
        Ok(net.zip(number).and_then(|(net, number)| net.nth(number)).map_or_else(no, |net| net.ip()))
    }),
    ("next_nth_usable", &["offset"], |call| moved(call, 1)),
    ("previous_nth_usable", &["offset"], |call| moved(call, -1)),
    ("network_in_network", &["test"], |call| within(call, |net| (net.first(), net.last()))),
    ("network_in_usable", &["test"], |call| within(call, Net::usable)),
    ("cidr_merge", &["action"], merge),
    ("ip4_hex", &["delimiter"], |call| {
        let address: Ipv4Addr = call.input()?.parse().map_err(|_| invalid("this goes with an IPv4 address"))?;
        Ok(Value::from(address.octets().map(|byte| format!("{byte:02x}")).join(&call.text("delimiter")?)))
    }),
];

/// An address with the length of its network's prefix.
#[derive(Clone, Copy)]
pub(in crate::template) struct Net {
    value: u128,
    prefix: u32,
    /// 32 or 128.
    bits: u32,
    /// Whether a prefix was written.
    has_prefix: bool,
}

fn no() -> Value {
    Value::from(false)
}

fn none() -> Value {
    Value::from(())
}

impl Net {
    pub(in crate::template) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let (value, bits) = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => (u128::from(address.to_bits()), 32),
            Ok(IpAddr::V6(address)) => (address.to_bits(), 128),
            Err(_) => {
                let number: u128 = address.parse().ok()?;
                (number, if u32::try_from(number).is_ok() { 32 } else { 128 })
            }
        };
        let prefix_len = match prefix {
            None => bits,
            Some(prefix) => match prefix.parse::<u32>() {
                Ok(length) => length,
                Err(_) => u32::from(ipnet::ip_mask_to_prefix(prefix.parse().ok()?).ok()?),
            },
        };
        (prefix_len <= bits).then_some(Self { value, prefix: prefix_len, bits, has_prefix: prefix.is_some() })
    }

    /// The same network, at another address.
    fn at(self, value: u128) -> Option<Self> {
        (self.bits == 128 || u32::try_from(value).is_ok()).then_some(Self { value, ..self })
    }

    /// The host bits of the network: the number of its addresses, minus one.
    fn mask(self) -> u128 {
        let host = self.bits - self.prefix;
        1_u128.checked_shl(host).map_or(u128::MAX, |size| size - 1)
    }

    fn first(self) -> u128 {
        self.value & !self.mask()
    }

    fn last(self) -> u128 {
        self.value | self.mask()
    }

    /// The first and the last address that a host may have.
    fn usable(self) -> (u128, u128) {
        match self.mask() {
            0 | 1 => (self.first(), self.last()),
            _ => (self.first() + 1, self.last() - 1),
        }
    }

    fn address(self, value: u128) -> IpAddr {
        match u32::try_from(value) {
            Ok(value) if self.bits == 32 => Ipv4Addr::from_bits(value).into(),
            _ => Ipv6Addr::from_bits(value).into(),
        }
    }

    fn text(self, value: u128) -> Value {
        Value::from(self.address(value).to_string())
    }

    pub(in crate::template) fn ip(self) -> Value {
        self.text(self.value)
    }

    /// The address, with the prefix if one was written.
    fn shown(self) -> Value {
        if self.has_prefix { self.with_prefix(self.value) } else { self.ip() }
    }

    fn with_prefix(self, value: u128) -> Value {
        Value::from(format!("{}/{}", self.address(value), self.prefix))
    }

    fn netmask(self) -> u128 {
        !self.mask() & if self.bits == 32 { u128::from(u32::MAX) } else { u128::MAX }
    }

    /// The address with this number in the network, from its end if the number is negative.
    pub(in crate::template) fn nth(self, number: i64) -> Option<Self> {
        let distance = u128::from(number.unsigned_abs());
        let value =
            if number >= 0 { self.first().checked_add(distance) } else { self.last().checked_sub(distance - 1) };
        value.filter(|value| (self.first()..=self.last()).contains(value)).and_then(|value| self.at(value))
    }

    fn contains(self, other: Self) -> bool {
        self.bits == other.bits && self.first() <= other.first() && other.last() <= self.last()
    }

    /// A host in a network of several.
    fn is_host(self) -> bool {
        self.mask() > 0 && self.value != self.first()
    }
}

fn need(text: &str) -> Result<Net, Error> {
    Net::parse(text).ok_or_else(|| invalid(format!("`{text}` is neither an address nor a network")))
}

/// A value, or each of a list.
fn each(value: &Value, one: &dyn Fn(&Value) -> Result<Value, Error>) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            list(value)?.iter().map(one).collect::<Result<Vec<_>, _>>().map(Value::from)
        }
        _ => one(value),
    }
}

fn of_version(call: &Call<'_>, bits: Option<u32>) -> Result<Value, Error> {
    let query = call.text("query")?;
    let found = each(&call.value, &|value| asked(value, &query, bits))?;
    // in a list, values that don't match are left out
    match call.value.kind() {
        ValueKind::Seq | ValueKind::Iterable => Ok(list(&found)?.into_iter().filter(Value::is_true).collect()),
        _ => Ok(found),
    }
}

fn wrapped(value: &Value, query: &str) -> Result<Value, Error> {
    let found = asked(value, query, None)?;
    if found.is_true() { asked(&found, "wrap", None) } else { Ok(value.clone()) }
}

/// The result of a query for one value.
fn asked(value: &Value, query: &str, bits: Option<u32>) -> Result<Value, Error> {
    let written = match value.kind() {
        ValueKind::String | ValueKind::Number => value.to_string(),
        _ => return Ok(no()),
    };
    let Some(net) = Net::parse(&written).filter(|net| bits.is_none_or(|bits| bits == net.bits)) else {
        return Ok(no());
    };
    // unchanged, unless it was a number
    let same = if written.contains(['.', ':']) { value.clone() } else { net.shown() };
    let when = |is: bool, value: Value| if is { value } else { none() };
    let is_point_to_point = net.mask() == 1;
    let only_network = || match net.has_prefix {
        true => Ok(net),
        false => Err(invalid(format!("`{written}` has no prefix, so it is not a network: write it like 10.0.0.0/16"))),
    };
    Ok(match query {
        "" => net.shown(),
        "bool" => Value::from(true),
        "address" | "ip" => when(net.mask() < 2 || net.is_host() || net.bits == 128, net.ip()),
        "cidr" => net.with_prefix(net.value),
        "host" => when(net.mask() < 2 || net.is_host(), net.with_prefix(net.value)),
        "ip/prefix" => when(is_point_to_point || net.is_host(), net.with_prefix(net.value)),
        "ip_netmask" => when(
            is_point_to_point || net.is_host(),
            Value::from(format!("{} {}", net.address(net.value), net.address(net.netmask()))),
        ),
        "address/prefix" | "gateway" | "gw" | "host/prefix" | "hostnet" | "router" => {
            match net.mask() > 1 && (net.value == net.first() || net.value == net.last()) {
                true => no(),
                false => net.with_prefix(net.value),
            }
        }
        "net" => when(net.mask() > 0 && net.value == net.first(), net.with_prefix(net.value)),
        "network" | "network_id" => net.text(net.first()),
        "network/prefix" | "subnet" => net.with_prefix(net.first()),
        "network_netmask" => Value::from(format!("{} {}", net.address(net.first()), net.address(net.netmask()))),
        "network_wildcard" => Value::from(format!("{} {}", net.address(net.first()), net.address(net.mask()))),
        "netmask" => net.text(net.netmask()),
        "hostmask" | "wildcard" => net.text(net.mask()),
        "broadcast" => when(net.mask() > 1, net.text(net.last())),
        "prefix" => Value::from(net.prefix),
        "version" => Value::from(if net.bits == 32 { 4 } else { 6 }),
        "type" => Value::from(if net.mask() == 0 || net.is_host() { "address" } else { "network" }),
        "int" if net.has_prefix => Value::from(format!("{}/{}", net.value, net.prefix)),
        "int" => Value::from(net.value),
        "size" => net.mask().checked_add(1).map_or_else(none, Value::from),
        "size_usable" => Value::from(match net.mask() {
            0 => 0,
            1 => 2,
            span => span - 1,
        }),
        "first_usable" => when(only_network()?.mask() > 0, net.text(net.usable().0)),
        "last_usable" => when(only_network()?.mask() > 0, net.text(net.usable().1)),
        "range_usable" => {
            let (first, last) = only_network()?.usable();
            when(net.mask() > 0, Value::from(format!("{}-{}", net.address(first), net.address(last))))
        }
        "next_usable" => shifted(only_network()?, 1),
        "previous_usable" => shifted(only_network()?, -1),
        "peer" => match (only_network()?.mask(), net.value & 3) {
            (1, _) => net.text(net.value ^ 1),
            (3, 1 | 2) => net.text(net.value ^ 3),
            _ => return Err(invalid(format!("`{written}` is not an end of a point-to-point network"))),
        },
        "ipv4" | "v4" => when(net.bits == 32, same),
        "ipv6" | "v6" => when(net.bits == 128, same),
        "loopback" | "lo" => when(net.address(net.value).is_loopback(), same),
        "multicast" => when(net.address(net.value).is_multicast(), same),
        "unicast" => when(!net.address(net.value).is_multicast(), same),
        "link-local" => when(is_in(net, "169.254.0.0/16 fe80::/10"), same),
        "private" => when(!is_global(net), same),
        "public" => when(is_global(net) && !net.address(net.value).is_multicast(), same),
        "revdns" => Value::from(reverse(net.address(net.value))),
        "wrap" if net.bits == 32 => same,
        "wrap" if net.has_prefix => Value::from(format!("[{}]/{}", net.address(net.value), net.prefix)),
        "wrap" => Value::from(format!("[{}]", net.address(net.value))),
        other => match (other.parse::<i64>(), Net::parse(other)) {
            (Ok(_), _) if net.mask() == 0 => net.shown(),
            (Ok(number), _) => net.nth(number).map_or_else(no, |nth| nth.with_prefix(nth.value)),
            (Err(_), Some(within)) => when(within.contains(net), same),
            (Err(_), None) => return Err(invalid(format!("`{other}` is nothing that can be asked of an address"))),
        },
    })
}

/// The usable address at this distance.
fn shifted(net: Net, by: i128) -> Value {
    let (first, last) = net.usable();
    let value = net.value.checked_add_signed(by).filter(|value| (first..=last).contains(value));
    value.filter(|_| net.mask() > 0).map_or_else(none, |value| net.text(value))
}

fn moved(call: &Call<'_>, sign: i128) -> Result<Value, Error> {
    let offset = i128::from(call.number("offset")?.unwrap_or(0));
    let Some(net) = Net::parse(&call.input()?) else { return Ok(no()) };
    // for a network, from its first address
    Ok(shifted(net, sign * offset))
}

fn is_in(net: Net, networks: &str) -> bool {
    networks.split(' ').filter_map(Net::parse).any(|within| within.contains(Net { prefix: net.bits, ..net }))
}

/// Whether an address is globally reachable, by IANA's registries of special addresses.
fn is_global(net: Net) -> bool {
    const SPECIAL: &str = "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 \
        192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4 ::/128 ::1/128 ::ffff:0:0/96 \
        64:ff9b:1::/48 100::/64 2001::/23 2001:db8::/32 2002::/16 fc00::/7 fe80::/10";
    !is_in(net, SPECIAL) || is_in(net, "192.0.0.9/32 192.0.0.10/32")
}

/// The name of an address for reverse DNS.
fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
        }
        IpAddr::V6(address) => {
            let digits: Vec<String> = hex::encode(address.octets()).chars().rev().map(String::from).collect();
            format!("{}.ip6.arpa.", digits.join("."))
        }
    }
}

fn within(call: &Call<'_>, range: fn(Net) -> (u128, u128)) -> Result<Value, Error> {
    let (outer, inner) = (need(&call.input()?)?, need(&call.text("test")?)?);
    let (first, last) = range(outer);
    Ok(Value::from(outer.bits == inner.bits && first <= inner.first() && inner.last() <= last))
}

fn subnet(call: &Call<'_>) -> Result<Value, Error> {
    let Some(net) = Net::parse(&call.input()?) else { return Ok(no()) };
    let net = Net { value: net.first(), ..net };
    let query = call.text("query")?;
    let Ok(wanted) = query.parse::<u32>() else {
        if query.is_empty() {
            return Ok(net.with_prefix(net.value));
        }
        let outer = need(&query)?;
        if !outer.contains(net) {
            return Err(invalid(format!("{} is not in {query}", net.with_prefix(net.value))));
        }
        let number = (net.value - outer.first()).checked_shr(net.bits - net.prefix).unwrap_or(0);
        return Ok(Value::from((number + 1).to_string()));
    };
    if wanted > net.bits {
        return Ok(no());
    }
    let within = Net { prefix: wanted, ..net };
    let Some(index) = call.number("index")? else {
        return match wanted.checked_sub(net.prefix) {
            _ if net.mask() == 0 => Ok(within.with_prefix(within.first())),
            Some(more) => Ok(1_u128.checked_shl(more).map_or_else(none, |count| Value::from(count.to_string()))),
            None => Err(invalid(format!("a network of /{} has no networks of /{wanted}", net.prefix))),
        };
    };
    let count = wanted.checked_sub(net.prefix).and_then(|more| 1_i128.checked_shl(more)).unwrap_or(0);
    let index = if index < 0 { i128::from(index) + count } else { i128::from(index) };
    if index < 0 || index >= count {
        return Ok(no());
    }
    let step = 1_u128.checked_shl(net.bits - wanted).unwrap_or(0);
    let start = u128::try_from(index).ok().and_then(|index| net.value.checked_add(index.checked_mul(step)?));
    Ok(start.and_then(|start| within.at(start)).map_or_else(no, |net| net.with_prefix(net.value)))
}

fn merge(call: &Call<'_>) -> Result<Value, Error> {
    let mut nets = Vec::new();
    for one in list(&call.value)? {
        let net = need(&text(&one)?)?;
        let net = IpNet::new(net.address(net.first()), u8::try_from(net.prefix).unwrap_or(0));
        nets.push(net.map_err(|error| invalid(error.to_string()))?);
    }
    match call.text("action")?.as_str() {
        "" | "merge" => Ok(IpNet::aggregate(&nets).iter().map(|net| Value::from(net.to_string())).collect()),
        "span" => {
            let Some(mut all) = nets.first().copied() else { return Ok(none()) };
            while !nets.iter().all(|net| all.contains(net)) {
                all = all.supernet().ok_or_else(|| invalid("nothing spans these"))?;
            }
            Ok(Value::from(all.trunc().to_string()))
        }
        other => Err(invalid(format!("`{other}` is not an action: merge, span"))),
    }
}
