//! Regular files, of what may stand at a path: opening a pipe waits for somebody to write into it.

use std::fs::Metadata;
use std::io;
use std::path::Path;

use tokio::io::AsyncReadExt as _;

/// # Errors
/// It is something else than a regular file.
pub(crate) fn check(metadata: &Metadata) -> io::Result<()> {
    match metadata.is_file() {
        true => Ok(()),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

/// Reads at most so many bytes of a file.
///
/// # Errors
/// It cannot be read, or is no regular file.
pub(crate) async fn read(path: &Path, bytes_max: u64) -> io::Result<(Metadata, Vec<u8>)> {
    let metadata = tokio::fs::metadata(path).await?;
    check(&metadata)?;
    let mut bytes = Vec::new();
    tokio::fs::File::open(path).await?.take(bytes_max).read_to_end(&mut bytes).await?;
    Ok((metadata, bytes))
}
