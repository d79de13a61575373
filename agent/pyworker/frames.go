package pyworker

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// A frame is {u32 payload length, u32 kind, u64 request id}, little-endian,
// then the payload. worker/loadline_worker/frames.py is the other end; change
// both together.
const (
	protocol   = 2
	headerSize = 16
	maxPayload = 1 << 30 // a longer frame is a broken peer
)

type kind uint32

const (
	// agent to worker
	kindRaw      kind = 1 // u32 length of the content type or noType, content type, body
	kindColumns  kind = 2 // see scoring.Columns
	kindCancel   kind = 3 // no payload
	kindTogether kind = 4 // as kindColumns, the rows of several requests; kindTable or kindAlone is the answer

	// worker to agent
	kindHello   kind = 16 // JSON, once, when the model is loaded
	kindFailed  kind = 17 // JSON, once, instead of kindHello
	kindDropped kind = 18 // the request never began: it was cancelled, or the worker was stopped
	kindText    kind = 19 // u16 status, u16 length of the media type, media type, body
	kindTable   kind = 20 // see scoring.AppendTable
	kindHead    kind = 21 // as kindText without a body; pieces and an end follow
	kindPiece   kind = 22 // more of the body
	kindEnd     kind = 23 // no payload
	kindAlone   kind = 24 // no payload: these rows have to be asked request by request
)

// last reports whether a frame is the last of an answer.
func (k kind) last() bool { return k != kindHead && k != kindPiece }

// noType stands for a request without a Content-Type.
const noType = 0xFFFFFFFF

type frame struct {
	kind    kind
	id      uint64
	payload []byte
}

// putHeader writes a header into b's first headerSize bytes; b is header and payload.
func putHeader(b []byte, k kind, id uint64) {
	binary.LittleEndian.PutUint32(b, uint32(len(b)-headerSize))
	binary.LittleEndian.PutUint32(b[4:], uint32(k))
	binary.LittleEndian.PutUint64(b[8:], id)
}

// readFrame reads the next frame. It returns io.EOF only between frames.
func readFrame(r *bufio.Reader) (frame, error) {
	head, err := r.Peek(headerSize)
	if err != nil {
		if len(head) > 0 && err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	n := binary.LittleEndian.Uint32(head)
	f := frame{kind: kind(binary.LittleEndian.Uint32(head[4:])), id: binary.LittleEndian.Uint64(head[8:])}
	if n > maxPayload {
		return frame{}, fmt.Errorf("the worker sent a frame of %d bytes; at most %d are allowed", n, maxPayload)
	}
	if f.kind < kindHello || f.kind > kindAlone {
		return frame{}, fmt.Errorf("the worker sent a frame of the unknown kind %d", f.kind)
	}
	if _, err := r.Discard(headerSize); err != nil {
		return frame{}, err
	}
	f.payload = make([]byte, n)
	if _, err := io.ReadFull(r, f.payload); err != nil {
		return frame{}, io.ErrUnexpectedEOF
	}
	return f, nil
}

// splitText takes a kindText or kindHead payload apart.
func splitText(p []byte) (status int, media string, body []byte, err error) {
	if len(p) < 4 {
		return 0, "", nil, fmt.Errorf("the worker sent an answer of %d bytes", len(p))
	}
	status = int(binary.LittleEndian.Uint16(p))
	n := int(binary.LittleEndian.Uint16(p[2:]))
	if len(p) < 4+n || status < 200 || status > 599 {
		return 0, "", nil, fmt.Errorf("the worker sent an answer with a broken head")
	}
	return status, string(p[4 : 4+n]), p[4+n:], nil
}
