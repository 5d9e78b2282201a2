//! A configuration in a file.

use crate::{GatewayConfig, GatewayConfigError};
use meshd_proto::limits::MAX_GATEWAY_CONFIG;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Why a configuration file is not used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("cannot read the gateway configuration {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It says something wrong.
    #[error("{path} is refused")]
    Refused {
        /// Which file.
        path: PathBuf,
        /// What and where.
        source: GatewayConfigError,
    },
}

/// Loads and checks the configuration in `path`. At most [`MAX_GATEWAY_CONFIG`] bytes are accepted.
///
/// # Errors
/// When the file cannot be read or its content is refused.
pub fn load(path: &Path) -> Result<GatewayConfig, LoadError> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_GATEWAY_CONFIG as u64 + 1).read_to_string(&mut text))
        .map_err(|source| LoadError::Read { path: path.into(), source })?;
    GatewayConfig::from_json(&text).map_err(|source| LoadError::Refused { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &str) -> Result<GatewayConfig, LoadError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.json");
        std::fs::write(&path, text).unwrap();
        load(&path)
    }

    #[test]
    fn a_file_is_loaded_or_refused_with_its_name() {
        let web = r#"{"generation":7,"listeners":[{"name":"web","port":443,"protocol":"tls"}]}"#;
        assert_eq!(load_text(web).unwrap().generation, 7);
        let refused = load_text(&web.replace("443", "0")).unwrap_err();
        assert!(refused.to_string().contains("gateway.json is refused"), "{refused}");
        assert!(matches!(
            load_text(&" ".repeat(MAX_GATEWAY_CONFIG + 5)),
            Err(LoadError::Refused { source: GatewayConfigError::TooLarge(_), .. })
        ));
        assert!(matches!(load(Path::new("/nowhere/gateway.json")), Err(LoadError::Read { .. })));
    }
}
