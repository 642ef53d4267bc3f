//! A store whose answers to the making of an object are lost.

use super::Objects;
use crate::checkpoint::storage::Storage;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, Error as StoreError, GetOptions, GetResult, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result,
};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

#[derive(Debug)]
struct LosesAnswers(InMemory);

impl fmt::Display for LosesAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ObjectStore for LosesAnswers {
    fn put_opts<'a, 'b, 'c>(
        &'a self,
        location: &'b Key,
        payload: PutPayload,
        opts: PutOptions,
    ) -> BoxFuture<'c, Result<PutResult>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(async move {
            let is_made = matches!(opts.mode, PutMode::Create);
            let put = self.0.put_opts(location, payload, opts).await?;
            if is_made {
                let (store, source) = ("test", "the connection was closed".into());
                return Err(StoreError::Generic { store, source });
            }
            Ok(put)
        })
    }

    fn put_multipart_opts<'a, 'b, 'c>(
        &'a self,
        location: &'b Key,
        opts: PutMultipartOptions,
    ) -> BoxFuture<'c, Result<Box<dyn MultipartUpload>>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.0.put_multipart_opts(location, opts)
    }

    fn get_opts<'a, 'b, 'c>(
        &'a self,
        location: &'b Key,
        options: GetOptions,
    ) -> BoxFuture<'c, Result<GetResult>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.0.get_opts(location, options)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Key>>,
    ) -> BoxStream<'static, Result<Key>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    fn list_with_delimiter<'a, 'b, 'c>(
        &'a self,
        prefix: Option<&'b Key>,
    ) -> BoxFuture<'c, Result<ListResult>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.0.list_with_delimiter(prefix)
    }

    fn copy_opts<'a, 'b, 'd, 'c>(
        &'a self,
        from: &'b Key,
        to: &'d Key,
        options: CopyOptions,
    ) -> BoxFuture<'c, Result<()>>
    where
        'a: 'c,
        'b: 'c,
        'd: 'c,
        Self: 'c,
    {
        self.0.copy_opts(from, to, options)
    }
}

#[test]
fn a_lost_answer_costs_no_save() -> crate::error::Result<()> {
    let store = Arc::new(LosesAnswers(InMemory::new()));
    super::register_object_store("lost://answers", store)?;
    let objects = Objects::new(Path::new("lost://answers/run"), "lost")?;
    let name = objects.create(7)?;
    assert_eq!(name, "step-00000007");
    objects.commit(&name, "a manifest")?;
    assert_eq!(objects.manifest(&name)?, "a manifest");
    // It was made by somebody else.
    assert!(objects.commit(&name, "another manifest").is_err());
    Ok(())
}
