package pyworker

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"

	"loadline.dev/loadline/agent"
)

// badBody is a body that is refused before anybody looks at what it says.
type badBody struct {
	status  int
	code    string
	message string
}

func (b *badBody) Error() string { return b.message }

func tooLarge(limit int64) error {
	return &badBody{413, "REQUEST_TOO_LARGE", fmt.Sprintf("The request body is larger than %d bytes.", limit)}
}

// gzipMagic starts every gzip member.
var gzipMagic = []byte{0x1f, 0x8b}

// readBody reads r's body, inflated, of at most limit bytes, into a slice that
// begins with room unused bytes.
//
// MLflow's server ignores Content-Encoding. So a plain body that is labelled
// gzip stays what it is, and only a body that is really packed is unpacked.
func readBody(r *agent.Request, limit int64, room int) ([]byte, error) {
	encoding := strings.ToLower(strings.TrimSpace(r.ContentEncoding))
	switch encoding {
	case "", "identity", "gzip", "x-gzip":
	default:
		return nil, &badBody{415, "UNSUPPORTED_MEDIA_TYPE", fmt.Sprintf(
			"Content-Encoding %.80q is not supported. Send the body as it is, or as gzip.", r.ContentEncoding)}
	}
	if r.Size > limit {
		return nil, tooLarge(limit)
	}
	buf, err := readAll(r.Body, r.Size, limit, room)
	if err != nil || !strings.HasSuffix(encoding, "gzip") || !bytes.HasPrefix(buf[room:], gzipMagic) {
		return buf, err
	}
	z, err := gzip.NewReader(bytes.NewReader(buf[room:]))
	if err == nil {
		buf, err = readAll(z, -1, limit, room)
	}
	if err != nil {
		if _, is := errors.AsType[*badBody](err); is {
			return nil, err
		}
		return nil, &badBody{400, "BAD_REQUEST", "Invalid input. The body is labelled gzip and cannot be unpacked: " + err.Error()}
	}
	return buf, nil
}

// readAll reads src to its end. size is a hint, -1 when unknown.
func readAll(src io.Reader, size, limit int64, room int) ([]byte, error) {
	if size < 0 {
		size = 512
	}
	buf := make([]byte, room, room+int(size)+1)
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		// One byte past the limit is enough to know.
		free := buf[len(buf):min(int64(cap(buf)), int64(room)+limit+1)]
		n, err := src.Read(free)
		buf = buf[:len(buf)+n]
		if int64(len(buf)-room) > limit {
			return nil, tooLarge(limit)
		}
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
