// Package bucket is the source of models that lie in an object store: S3 and
// what speaks its protocol, Google Cloud Storage, Azure Blob Storage. Which
// endpoint and whose credentials are used is the operator's to say, by the
// stores' own environment variables; a MODEL names bucket and path only.
package bucket

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/azureblob" // azblob:
	_ "gocloud.dev/blob/gcsblob"   // gs:
	_ "gocloud.dev/blob/s3blob"    // s3:
	"gocloud.dev/gcerrors"

	"loadline.dev/loadline/model"
	"loadline.dev/loadline/serving"
)

// Settings are what the stores' own libraries do not read by themselves. The
// rest (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS,
// AZURE_STORAGE_KEY, …) they take from the environment.
type Settings struct {
	S3Endpoint string // MLFLOW_S3_ENDPOINT_URL: a store other than Amazon's
	Region     string // AWS_REGION, AWS_DEFAULT_REGION

	// AzureAccount is AZURE_STORAGE_ACCOUNT. No other account is spoken to,
	// since the credentials are this one's.
	AzureAccount string
}

// FromVars reads settings from environment variables.
func FromVars(get func(string) string) Settings {
	s := Settings{S3Endpoint: get("MLFLOW_S3_ENDPOINT_URL"), Region: get("AWS_REGION"), AzureAccount: get("AZURE_STORAGE_ACCOUNT")}
	for _, name := range []string{"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"} {
		if s.S3Endpoint == "" {
			s.S3Endpoint = get(name)
		}
	}
	if s.Region == "" {
		s.Region = get("AWS_DEFAULT_REGION")
	}
	if s.Region == "" && s.S3Endpoint != "" {
		s.Region = "us-east-1" // stores of one's own have no regions, but the signature needs one
	}
	return s
}

// A Source reads object stores. It keeps one client a bucket.
type Source struct {
	settings Settings

	mu   sync.Mutex
	open map[string]*blob.Bucket // by URL
}

var _ model.Source = (*Source)(nil)

// New returns a source. It connects to nothing yet.
func New(s Settings) *Source {
	return &Source{settings: s, open: map[string]*blob.Bucket{}}
}

// Close lets the clients go.
func (s *Source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all error
	for _, b := range s.open {
		all = errors.Join(all, b.Close())
	}
	clear(s.open)
	return all
}

// url is where the library behind finds ref's bucket.
func (s *Source) url(ref model.Ref) (string, error) {
	query := url.Values{}
	scheme := ref.Scheme
	switch ref.Scheme {
	case model.S3:
		if s.settings.S3Endpoint != "" {
			query.Set("endpoint", s.settings.S3Endpoint)
			query.Set("use_path_style", "true")
			query.Set("hostname_immutable", "true")
		}
		if s.settings.Region != "" {
			query.Set("region", s.settings.Region)
		}
	case model.GS:
	case model.ABFSS, model.WASBS:
		if ref.Account != s.settings.AzureAccount {
			return "", &serving.Error{Op: "bucket", Subject: ref.Host, Kind: serving.Denied, Err: errors.New("it is not the storage account that this server has credentials for"),
				Fix: "Set AZURE_STORAGE_ACCOUNT (and its key or token) on the server, or name that account."}
		}
		scheme = "azblob"
		query.Set("storage_account", ref.Account)
		_, domain, _ := strings.Cut(ref.Host, ".")
		// The one protocol of the store that serves both names.
		query.Set("domain", strings.Replace(domain, "dfs.", "blob.", 1))
	default:
		return "", &serving.Error{Op: "bucket", Subject: ref.Text, Kind: serving.Invalid, Err: errors.New("it is no bucket")}
	}
	u := url.URL{Scheme: scheme, Host: ref.Bucket, RawQuery: query.Encode()}
	return u.String(), nil
}

func (s *Source) bucket(ctx context.Context, ref model.Ref) (*blob.Bucket, error) {
	u, err := s.url(ref)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.open[u]; ok {
		return b, nil
	}
	// The client outlives this request.
	b, err := blob.OpenBucket(context.WithoutCancel(ctx), u)
	if err != nil {
		return nil, trouble(ref, err)
	}
	s.open[u] = b
	return b, nil
}

// Resolve pins what lies at ref now: objects can be replaced, so the pin is
// the digest of the listing with the store's own sums and times.
func (s *Source) Resolve(ctx context.Context, ref model.Ref) (model.Pin, error) {
	digest, _, err := s.list(ctx, ref)
	if err != nil {
		return model.Pin{}, err
	}
	return model.Pin{Ref: ref.Text + "#" + digest[:32], Location: ref.Text}, nil
}

// Files lists the objects below the pin's location.
func (s *Source) Files(ctx context.Context, pin model.Pin) ([]model.File, error) {
	ref, err := model.Parse(pin.Location)
	if err != nil {
		return nil, err
	}
	digest, files, err := s.list(ctx, ref)
	if err != nil {
		return nil, err
	}
	if _, was, ok := strings.Cut(pin.Ref, ref.Text+"#"); ok && was != digest[:32] {
		return nil, &serving.Error{Op: "fetch model", Subject: ref.Text, Kind: serving.Conflict, Err: errors.New("the objects were replaced since they were looked at"),
			Fix: "Try again when they are left alone."}
	}
	return files, nil
}

func (s *Source) list(ctx context.Context, ref model.Ref) (string, []model.File, error) {
	b, err := s.bucket(ctx, ref)
	if err != nil {
		return "", nil, err
	}
	prefix := folder(ref)
	var lines []string
	var files []model.File
	for it := b.List(&blob.ListOptions{Prefix: prefix}); ; {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", nil, trouble(ref, err)
		}
		if strings.HasSuffix(o.Key, "/") && o.Size == 0 {
			continue // a console's mark for an empty folder
		}
		if len(files) >= model.MaxFiles {
			return "", nil, &serving.Error{Op: "bucket", Subject: ref.Text, Kind: serving.Invalid, Err: fmt.Errorf("it holds more than %d objects", model.MaxFiles),
				Fix: "Name the model's own folder, the one that holds MLmodel."}
		}
		files = append(files, model.File{Path: strings.TrimPrefix(o.Key, prefix), Size: o.Size})
		lines = append(lines, fmt.Sprintf("%d %x %d %s\n", o.Size, o.MD5, o.ModTime.UnixNano(), o.Key))
	}
	if len(files) == 0 {
		return "", nil, &serving.Error{Op: "bucket", Subject: ref.Text, Kind: serving.NotFound, Err: errors.New("nothing lies there"),
			Fix: "Name the folder that holds the MLmodel file."}
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "")))
	return hex.EncodeToString(sum[:]), files, nil
}

func folder(ref model.Ref) string {
	if ref.Path == "" {
		return ""
	}
	return ref.Path + "/"
}

// Open reads a part of an object.
func (s *Source) Open(ctx context.Context, pin model.Pin, path string, offset, length int64) (io.ReadCloser, error) {
	ref, err := model.Parse(pin.Location)
	if err != nil {
		return nil, err
	}
	b, err := s.bucket(ctx, ref)
	if err != nil {
		return nil, err
	}
	r, err := b.NewRangeReader(ctx, folder(ref)+path, offset, length, nil)
	if err != nil {
		return nil, trouble(ref, err)
	}
	return r, nil
}

// trouble gives a store's error a kind and an advice.
func trouble(ref model.Ref, err error) error {
	e := &serving.Error{Op: "bucket", Subject: ref.Text, Err: short(err)}
	switch gcerrors.Code(err) {
	case gcerrors.NotFound:
		e.Kind, e.Fix = serving.NotFound, "Look whether bucket and path are right."
	case gcerrors.PermissionDenied:
		e.Kind, e.Fix = serving.Denied, "Give the server credentials that may list and read the bucket."
	case gcerrors.InvalidArgument:
		e.Kind = serving.Invalid
	case gcerrors.Canceled:
		return err
	default:
		e.Kind, e.Fix = serving.Unavailable, "Look whether the store can be reached, and whether its credentials are set on the server."
	}
	return e
}

// short is the last part of a long chain, which says what happened.
func short(err error) error {
	text := err.Error()
	if len(text) > 400 {
		text = "…" + strings.ToValidUTF8(text[len(text)-400:], "")
	}
	return errors.New(text)
}
