//! Buckets and containers: S3, Azure Blob storage and Google Cloud Storage, opened as a URL and the settings say.
//!
//! Credentials of the settings outrank every other. Where there are none, the environment's variables count, and then the
//! identity of the machine; a store is never asked without any, whatever the environment says. What a setting holds is
//! looked at here, since the library would say so late, or in words that quote a secret.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};
use object_store::azure::{AzureAccessKey, AzureConfigKey, AzureCredential, MicrosoftAzureBuilder};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{Certificate, ClientOptions, ObjectStore, RetryConfig, StaticCredentialProvider};
use syncline_schemas::secret::Secret;
use url::{Url, form_urlencoded};

use super::config::StoreOptions;
use crate::SinkError;

/// 30 s: the pump waits and repeats anyway, and shows the operator why.
const RETRY_FOR: Duration = Duration::from_secs(30);

/// One request, with all that it carries: a part of a file is 10 MB at most.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Where an account of Azure is named in a URL: `container@account.dfs.core.windows.net`.
const AZURE_HOST: &str = ".dfs.core.windows.net";

fn setting(setting: &'static str, reason: impl Into<String>) -> SinkError {
    SinkError::Setting { setting, reason: reason.into() }
}

/// Opens the bucket or container of a URL; nothing is contacted yet.
pub(super) fn open(url: &Url, options: &StoreOptions) -> Result<Arc<dyn ObjectStore>, SinkError> {
    check_endpoint(options)?;
    let client = client(options)?;
    match url.scheme() {
        "s3" => s3(url, options, client),
        "az" | "abfss" => azure(url, options, client),
        _ => gcs(url, options, client),
    }
}

fn check_endpoint(options: &StoreOptions) -> Result<(), SinkError> {
    let Some(endpoint) = &options.endpoint else { return Ok(()) };
    let refused = |reason: &str| Err(setting("endpoint", reason));
    match endpoint.scheme() {
        "https" => {}
        "http" if options.allow_http => {}
        "http" => return refused("is without TLS; write https://, or set allow_http = true"),
        _ => return refused("is no http:// or https:// url"),
    }
    if !endpoint.username().is_empty() || endpoint.password().is_some() {
        return refused("holds credentials; they have settings of their own");
    }
    if endpoint.query().is_some() || endpoint.fragment().is_some() {
        return refused("holds more than the place of a service; a SAS token is set as sas_token");
    }
    Ok(())
}

/// What all requests have in common. Made anew, so that no variable of the environment can turn the checking of
/// certificates off.
fn client(options: &StoreOptions) -> Result<ClientOptions, SinkError> {
    let mut client =
        ClientOptions::new().with_allow_http(options.allow_http).with_timeout(options.timeout.unwrap_or(TIMEOUT));
    let Some(file) = &options.ca else { return Ok(client) };
    let wrong = |reason: String| setting("tls", format!("names {}: {reason}", file.display()));
    let pem = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
    let authorities = Certificate::from_pem_bundle(&pem).map_err(|error| wrong(error.to_string()))?;
    if authorities.is_empty() {
        return Err(wrong("it holds no certificate".to_owned()));
    }
    for authority in authorities {
        client = client.with_root_certificate(authority);
    }
    Ok(client)
}

fn retry() -> RetryConfig {
    RetryConfig { retry_timeout: RETRY_FOR, ..RetryConfig::default() }
}

/// The endpoint as the library joins names to it.
fn bare(endpoint: &str) -> String {
    endpoint.trim_end_matches('/').to_owned()
}

fn unopened<T: ObjectStore>(url: &Url, built: object_store::Result<T>) -> Result<Arc<dyn ObjectStore>, SinkError> {
    match built {
        Ok(store) => Ok(Arc::new(store)),
        Err(error) => Err(setting("url", format!("{url} does not open: {error}"))),
    }
}

/// The host of a URL as the name of a bucket or container.
fn bucket(url: &Url) -> Result<&str, SinkError> {
    match url.host_str() {
        Some(host) if !host.is_empty() && url.port().is_none() => Ok(host),
        Some(host) if !host.is_empty() => Err(setting("url", "names a port; the service is set as endpoint")),
        _ => Err(setting("url", format!("names no bucket or container, as in {}://name/path", url.scheme()))),
    }
}

fn s3(url: &Url, options: &StoreOptions, client: ClientOptions) -> Result<Arc<dyn ObjectStore>, SinkError> {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket(url)?)
        .with_client_options(client)
        .with_retry(retry())
        .with_skip_signature(false);
    if let Some(endpoint) = &options.endpoint {
        // As that of S3, which outranks a general one of the environment.
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, bare(endpoint.as_str()));
    }
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    let missing = |it, beside: &str| Err(setting(it, format!("is needed beside {beside}")));
    match (&options.access_key_id, &options.secret_access_key, &options.session_token) {
        (Some(id), Some(secret), token) => {
            let reveal = |secret: &Secret| secret.reveal().to_owned();
            let (key_id, secret_key, token) = (reveal(id), reveal(secret), token.as_ref().map(reveal));
            let credential = AwsCredential { key_id, secret_key, token };
            builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(credential)));
        }
        (Some(_), None, _) => return missing("secret_access_key", "access_key_id"),
        (None, Some(_), _) => return missing("access_key_id", "secret_access_key"),
        (None, None, Some(_)) => return missing("access_key_id", "session_token"),
        (None, None, None) => {}
    }
    unopened(url, builder.build())
}

/// The container of a URL, and its account where that stands there as well.
fn container(url: &Url) -> Result<(&str, Option<&str>), SinkError> {
    let host = bucket(url)?;
    if url.scheme() == "az" {
        return match host.contains('.') {
            false => Ok((host, None)),
            true => Err(setting(
                "url",
                format!("names the container {host}, which cannot hold a dot; as in az://container/path"),
            )),
        };
    }
    let account = host.strip_suffix(AZURE_HOST).filter(|account| !account.is_empty() && !account.contains('.'));
    match account {
        Some(account) if !url.username().is_empty() => Ok((url.username(), Some(account))),
        _ => Err(setting(
            "url",
            format!(
                "is not of the form abfss://container@account{AZURE_HOST}/path; of another cloud write az://container/path, with account and endpoint"
            ),
        )),
    }
}

fn azure(url: &Url, options: &StoreOptions, client: ClientOptions) -> Result<Arc<dyn ObjectStore>, SinkError> {
    let (container, named) = container(url)?;
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(container)
        .with_client_options(client)
        .with_retry(retry())
        .with_use_emulator(false)
        .with_skip_signature(false);
    if let (Some(named), Some(set)) = (named, &options.account)
        && named != set
    {
        return Err(setting("account", format!("is {set:?}, and the url names {named:?}")));
    }
    let account = named.or(options.account.as_deref()).map(str::to_owned);
    let account = account.or_else(|| builder.get_config_value(&AzureConfigKey::AccountName));
    let Some(account) = account.filter(|account| !account.is_empty()) else {
        return Err(setting(
            "account",
            format!(
                "is needed, as the url does not name it; or set AZURE_STORAGE_ACCOUNT_NAME, or write the url as abfss://container@account{AZURE_HOST}/path"
            ),
        ));
    };
    builder = builder.with_account(account);
    let endpoint = options.endpoint.as_ref().map(|endpoint| endpoint.as_str().to_owned());
    if let Some(endpoint) = endpoint.or_else(|| builder.get_config_value(&AzureConfigKey::Endpoint)) {
        builder = builder.with_endpoint(bare(&endpoint));
    }
    let credential = match (&options.account_key, &options.sas_token) {
        (Some(_), Some(_)) => {
            return Err(setting("sas_token", "stands beside account_key; a store is told once who we are"));
        }
        (Some(key), None) => AzureAccessKey::try_new(key.reveal())
            .map(AzureCredential::AccessKey)
            .map(Some)
            .map_err(|_| setting("account_key", "is no key of a storage account, which is in base64"))?,
        (None, Some(token)) => Some(AzureCredential::SASToken(sas(token)?)),
        (None, None) => None,
    };
    if let Some(credential) = credential {
        builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(credential)));
    }
    unopened(url, builder.build())
}

/// A SAS token as it is copied from the portal, with or without its `?`.
fn sas(token: &Secret) -> Result<Vec<(String, String)>, SinkError> {
    // A signature that somebody decoded already holds +, which would be read as a blank.
    let text = token.reveal().trim().trim_start_matches('?').replace('+', "%2B");
    let pairs: Vec<(String, String)> = form_urlencoded::parse(text.as_bytes()).into_owned().collect();
    let has = |name: &str| pairs.iter().any(|(key, value)| key == name && !value.is_empty());
    if !has("sig") || !has("sv") {
        return Err(setting(
            "sas_token",
            "is no SAS token, which holds sv=... and sig=...; of a SAS url it is what stands behind the ?",
        ));
    }
    Ok(pairs)
}

fn gcs(url: &Url, options: &StoreOptions, client: ClientOptions) -> Result<Arc<dyn ObjectStore>, SinkError> {
    let mut builder = match &options.service_account {
        // Without the environment, which may name another file, and the library takes one of them only.
        Some(key) => GoogleCloudStorageBuilder::new().with_service_account_key(key.reveal()),
        None => GoogleCloudStorageBuilder::from_env(),
    };
    builder = builder
        .with_bucket_name(bucket(url)?)
        .with_client_options(client)
        .with_retry(retry())
        .with_skip_signature(false);
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_base_url(&bare(endpoint.as_str()));
    }
    match builder.build() {
        Err(_) if options.service_account.is_some() => Err(setting(
            "service_account",
            "is no key file of a service account, which is JSON with client_email and private_key",
        )),
        built => unopened(url, built),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Key file of a service account as stand-ins have it, since a real one needs a real key.
    const SERVICE_ACCOUNT: &str =
        r#"{"client_email": "", "private_key": "hunter2", "private_key_id": "", "disable_oauth": true}"#;

    fn secret(text: &str) -> Option<Secret> {
        Some(Secret::new(text))
    }

    fn opened(url: &str, change: impl FnOnce(&mut StoreOptions)) -> Result<String, String> {
        let mut options = StoreOptions::default();
        change(&mut options);
        let url = Url::parse(url).expect("a URL");
        open(&url, &options).map(|store| store.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn each_form_of_a_url_means_its_bucket_or_container_and_account() {
        let with_key = |options: &mut StoreOptions| {
            (options.account, options.account_key) = (Some("acme".into()), secret("aHVudGVyMg=="));
        };
        let wanted = "MicrosoftAzure { account: acme, container: lake }";
        assert_eq!(opened("az://lake/erp", with_key).as_deref(), Ok(wanted));
        assert_eq!(opened("abfss://lake@acme.dfs.core.windows.net/erp", with_key).as_deref(), Ok(wanted));
        let other_cloud = |options: &mut StoreOptions| {
            with_key(options);
            options.endpoint = Url::parse("https://acme.blob.core.usgovcloudapi.net/").ok();
        };
        assert_eq!(opened("az://lake/erp", other_cloud).as_deref(), Ok(wanted));
        let with_account = |options: &mut StoreOptions| options.service_account = secret(SERVICE_ACCOUNT);
        assert_eq!(opened("gs://the.lake_1/erp", with_account).as_deref(), Ok("GoogleCloudStorage(the.lake_1)"));
        let with_keys = |options: &mut StoreOptions| {
            (options.access_key_id, options.secret_access_key) = (secret("id"), secret("hunter2"));
        };
        assert_eq!(opened("s3://lake/erp", with_keys).as_deref(), Ok("AmazonS3(lake)"));
    }

    #[test]
    fn a_url_that_names_no_place_is_refused_with_one_that_does() {
        for (url, reason) in [
            ("az:///lake", "names no bucket or container, as in az://name/path"),
            ("gs:///lake", "as in gs://name/path"),
            ("az://acme.blob.core.windows.net/lake", "cannot hold a dot"),
            ("az://lake:10000/erp", "names a port; the service is set as endpoint"),
            ("abfss://lake/erp", "abfss://container@account.dfs.core.windows.net/path"),
            ("abfss://lake@acme.blob.core.windows.net/erp", "abfss://container@account.dfs.core.windows.net/path"),
            ("abfss://acme.dfs.core.windows.net/erp", "abfss://container@account.dfs.core.windows.net/path"),
            ("abfss://lake@.dfs.core.windows.net/erp", "abfss://container@account.dfs.core.windows.net/path"),
        ] {
            let text = opened(url, |options| options.account = Some("acme".into())).expect_err(url);
            assert!(text.contains(reason), "{url}: {text}");
        }
    }

    #[test]
    fn a_secret_of_another_kind_is_refused_by_name_and_never_shown() {
        type Change = fn(&mut StoreOptions);
        let wrong: [(&str, Change, &str); 8] = [
            ("az", |it| it.account_key = secret("hunter2!"), "account_key: is no key of a storage account"),
            ("az", |it| it.sas_token = secret("hunter2"), "sas_token: is no SAS token"),
            (
                "az",
                |it| it.sas_token = secret("https://acme.blob.core.windows.net/lake?sv=1&sig=hunter2"),
                "sas_token: is no SAS token",
            ),
            (
                "az",
                |it| (it.account_key, it.sas_token) = (secret("aHVudGVyMg=="), secret("sv=1&sig=hunter2")),
                "sas_token: stands beside account_key",
            ),
            ("gs", |it| it.service_account = secret("\"hunter2\""), "service_account: is no key file"),
            ("s3", |it| it.access_key_id = secret("hunter2"), "secret_access_key: is needed beside access_key_id"),
            ("s3", |it| it.secret_access_key = secret("hunter2"), "access_key_id: is needed beside secret_access_key"),
            ("s3", |it| it.session_token = secret("hunter2"), "access_key_id: is needed beside session_token"),
        ];
        for (scheme, change, reason) in wrong {
            let text = opened(&format!("{scheme}://lake/erp"), |options| {
                options.account = (scheme == "az").then(|| "acme".into());
                change(options);
            });
            let text = text.expect_err(reason);
            assert!(text.contains(reason) && !text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn an_endpoint_that_would_be_asked_in_the_clear_or_holds_credentials_is_refused() {
        for (endpoint, reason) in [
            ("http://127.0.0.1:9000", "is without TLS; write https://, or set allow_http = true"),
            ("ftp://127.0.0.1", "is no http:// or https:// url"),
            ("https://me:hunter2@127.0.0.1", "holds credentials"),
            ("https://acme.blob.core.windows.net/?sv=1&sig=hunter2", "a SAS token is set as sas_token"),
        ] {
            let text =
                opened("s3://lake/erp", |options| options.endpoint = Url::parse(endpoint).ok()).expect_err(reason);
            assert!(text.contains("endpoint") && text.contains(reason) && !text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn a_signature_counts_whether_it_was_decoded_or_not() {
        for token in ["sv=1&sig=a%2Bb%3D", "?sv=1&sig=a+b=", " sv=1&sig=a%2bb%3d\n"] {
            let pairs = sas(&Secret::new(token)).expect("a token");
            assert_eq!(pairs[1], ("sig".to_owned(), "a+b=".to_owned()), "{token}");
        }
    }

    #[test]
    fn a_file_that_holds_no_authority_is_refused_when_the_daemon_starts() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in [("absent.pem", None), ("empty.pem", Some("")), ("key.pem", Some("hunter2"))] {
            let file = folder.path().join(name);
            if let Some(text) = text {
                std::fs::write(&file, text).expect("written");
            }
            let text = opened("s3://lake/erp", |options| options.ca = Some(file.clone())).expect_err(name);
            assert!(text.contains("tls: names") && text.contains(name) && !text.contains("hunter2"), "{text}");
        }
    }
}
