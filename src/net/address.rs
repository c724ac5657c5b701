//! Addresses of web servers, and their form in messages.

use reqwest::Url;

use crate::error::{Result, error};

/// Parses the address of a web server or of something on it. Credentials in an address would appear in logs and in `kpull.toml`, so
/// they are refused; so is a query, which may have a token.
pub fn parse(url: &str) -> Result<Url> {
    let wrong = |why: &str| {
        let stripped = url.split(['?', '#']).next().unwrap_or(url);
        let (scheme, rest) = stripped.split_once("://").unwrap_or(("", stripped));
        let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        let stripped = if scheme.is_empty() { rest.to_owned() } else { format!("{scheme}://{rest}") };
        error!(NET, "`{stripped}` {why}")
    };
    let parsed = Url::parse(url).map_err(|why| {
        wrong("is not an address").because(why).help("write the full address, such as https://HOST/DIRECTORY")
    })?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(wrong("is not an http:// or https:// address")
            .help("write the full address, such as https://HOST/DIRECTORY"));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(wrong("contains credentials")
            .help("put them into a file that only root can read, and set basic = \"FILE\" or bearer = \"FILE\""));
    }
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(wrong("contains a query or a fragment").help("remove everything from `?` or `#` on"));
    }
    Ok(parsed)
}

/// Parses any address.
pub(crate) fn read(url: &str) -> Result<Url> {
    Url::parse(url)
        .map_err(|why| error!(NET, "an address can't be read").because(why).help("write it as https://HOST/PATH"))
}

/// An address for messages: without credentials, query and fragment.
pub fn shown(url: &Url) -> String {
    let mut stripped = url.clone();
    // both fail only for addresses that can't have credentials
    let _ = stripped.set_username("");
    let _ = stripped.set_password(None);
    stripped.set_query(None);
    stripped.set_fragment(None);
    stripped.to_string()
}

/// The server of an address, as in `https://HOST:PORT`; the address itself if it has none.
pub fn server_of(url: &str) -> String {
    let origin = Url::parse(url).ok().map(|url| url.origin()).filter(|origin| origin.is_tuple());
    origin.map_or_else(|| url.to_owned(), |origin| origin.ascii_serialization())
}

/// The address of a path of names below `base`; the names are encoded.
pub fn below<'a>(base: &Url, names: impl IntoIterator<Item = &'a str>) -> Result<Url> {
    let mut url = base.clone();
    match url.path_segments_mut() {
        Ok(mut path) => path.pop_if_empty().extend(names),
        Err(()) => return Err(error!(NET, "`{}` has no path", shown(base))),
    };
    Ok(url)
}
