package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
	"unsafe"

	"loadline.dev/loadline/serving"
)

// A frame is a header of headerSize bytes, little-endian, and a payload:
//
//	u32 payload length · u8 kind · u8 flags · u16 zero · u32 stream
//
// Stream is zero in frames that concern the connection. Kinds from optional on
// may be skipped by whoever does not know them; any other unknown kind, and
// anything else out of order, ends the connection.
const (
	version    = 1
	headerSize = 12

	maxHead   = 64 << 10 // of one encoded request or answer head
	maxChunk  = 64 << 10 // body bytes in one frame
	maxFrame  = maxHead + maxChunk + 1<<10
	maxFields = 512
	maxWhy    = 1 << 10 // of a sentence in a frame
)

// Window is how many body bytes of a stream one side may send before the other
// has read any.
const Window = 256 << 10

type kind uint8

const (
	kindHello  kind = 1  // magic, version; the first frame each way
	kindOpen   kind = 2  // → agent: head of a request, first body bytes
	kindData   kind = 3  // ↔ body bytes
	kindCancel kind = 4  // → agent: the client has left
	kindWindow kind = 5  // ↔ the receiver has read that many body bytes
	kindWant   kind = 6  // → agent: how many places this side could use
	kindGrant  kind = 7  // ← that many more places
	kindRecall kind = 8  // ← give back that many places if they are unused
	kindReturn kind = 9  // → agent: asked for, given back
	kindRefuse kind = 10 // ← not taken, and why
	kindAnswer kind = 11 // ← head of an answer
	kindBroken kind = 12 // ← there is no answer, or not the rest of it, and why
	kindLoad   kind = 13 // ← load report
	kindDrain  kind = 14 // ← nothing new is taken
	kindPing   kind = 15 // → agent: keeps the connection; answered by pong
	kindPong   kind = 16 // ← the same payload

	optional  kind = 0x80
	kindLine  kind = 0x80 // → agent: how many places it is to grant in all; an old one keeps its own
	kindAside kind = 0x81 // → agent: 1, grant this side no places but those it wants; 0, as ever
	kindGiven kind = 0x82 // ← the request goes on to an engine; only gateways say so to each other
)

const flagEnd = 1 // with open and data: the body ends here

var magic = [4]byte{'L', 'L', 'N', 'K'}

type header struct {
	size   int
	kind   kind
	flags  uint8
	stream uint32
}

// errFrame is what every refusal of a malformed frame wraps.
var errFrame = errors.New("malformed frame")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errFrame}, args...)...)
}

func parseHeader(b []byte) (header, error) {
	h := header{
		kind:   kind(b[4]),
		flags:  b[5],
		stream: binary.LittleEndian.Uint32(b[8:]),
	}
	size := binary.LittleEndian.Uint32(b)
	if size > maxFrame {
		return h, malformed("%d bytes of payload; at most %d are allowed", size, maxFrame)
	}
	if b[6] != 0 || b[7] != 0 {
		return h, malformed("reserved bytes are not zero")
	}
	h.size = int(size)
	return h, nil
}

// begin appends a header whose length [finish] fills in.
func begin(b []byte, k kind, flags uint8, stream uint32) []byte {
	b = append(b, 0, 0, 0, 0, byte(k), flags, 0, 0)
	return binary.LittleEndian.AppendUint32(b, stream)
}

// finish fills in the length of the frame that began at start.
func finish(b []byte, start int) []byte {
	binary.LittleEndian.PutUint32(b[start:], uint32(len(b)-start-headerSize))
	return b
}

func appendHello(b []byte) []byte {
	start := len(b)
	b = append(begin(b, kindHello, 0, 0), magic[:]...)
	b = binary.LittleEndian.AppendUint16(b, version)
	return finish(b, start)
}

// checkHello accepts every later version too: whoever speaks one falls back to
// the lower of the two, or closes.
func checkHello(h header, payload []byte) error {
	switch {
	case h.kind != kindHello:
		return malformed("the first frame is of kind %d, not hello", h.kind)
	case len(payload) < 6 || [4]byte(payload) != magic:
		return malformed("not a link")
	case binary.LittleEndian.Uint16(payload[4:]) < 1:
		return malformed("version 0")
	}
	return nil
}

// appendNumbers appends a frame of nothing but numbers.
func appendNumbers(b []byte, k kind, stream uint32, numbers ...uint64) []byte {
	start := len(b)
	b = begin(b, k, 0, stream)
	for _, n := range numbers {
		b = binary.AppendUvarint(b, n)
	}
	return finish(b, start)
}

func appendData(b []byte, stream uint32, data []byte, flags uint8) []byte {
	start := len(b)
	return finish(append(begin(b, kindData, flags, stream), data...), start)
}

func appendWhy(b []byte, k kind, flags uint8, stream uint32, why string) []byte {
	start := len(b)
	return finish(append(begin(b, k, flags, stream), why[:min(len(why), maxWhy)]...), start)
}

// appendHead leaves b as it was when the head is larger than maxHead.
func appendRequest(b []byte, stream uint32, r *Request, body []byte, flags uint8) ([]byte, error) {
	start := len(b)
	b = append(begin(b, kindOpen, flags, stream), 0, 0, 0, 0)
	b = binary.AppendUvarint(b, uint64(max(0, r.Timeout)))
	b = binary.AppendUvarint(b, uint64(max(-1, r.Size)+1))
	b = appendText(appendText(b, r.Method), r.Path)
	b = appendFields(b, r.Header)
	return closeHead(b, start, len(r.Header), body)
}

func appendAnswer(b []byte, stream uint32, a *Answer, flags uint8) ([]byte, error) {
	start := len(b)
	b = append(begin(b, kindAnswer, flags, stream), 0, 0, 0, 0)
	b = binary.AppendUvarint(b, uint64(max(0, a.Status)))
	b = binary.AppendUvarint(b, uint64(max(-1, a.Size)+1))
	b = appendFields(b, a.Header)
	return closeHead(b, start, len(a.Header), nil)
}

func closeHead(b []byte, start, fields int, body []byte) ([]byte, error) {
	size := len(b) - start - headerSize - 4
	if size > maxHead || fields > maxFields {
		return b[:start], &serving.Error{Op: "link", Kind: serving.Invalid,
			Err: fmt.Errorf("a head of %d bytes and %d fields; at most %d and %d are allowed", size, fields, maxHead, maxFields)}
	}
	binary.LittleEndian.PutUint32(b[start+headerSize:], uint32(size))
	return finish(append(b, body...), start), nil
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendFields(b []byte, fields []Field) []byte {
	b = binary.AppendUvarint(b, uint64(len(fields)))
	for _, f := range fields {
		b = appendText(appendText(b, f.Name), f.Value)
	}
	return b
}

// A cursor reads what the append functions wrote. After the first thing that
// is not there, bad is set and everything is zero. Its texts share one string.
type cursor struct {
	rest string
	bad  bool
}

func (c *cursor) number() uint64 {
	var n uint64
	for i := 0; i < len(c.rest) && i < binary.MaxVarintLen64; i++ {
		x := c.rest[i]
		if i == 9 && x > 1 {
			break
		}
		n |= uint64(x&0x7f) << (7 * i)
		if x < 0x80 {
			c.rest = c.rest[i+1:]
			return n
		}
	}
	c.bad, c.rest = true, ""
	return 0
}

// count is a number that fits an int and is at most limit.
func (c *cursor) count(limit int) int {
	n := c.number()
	if n > uint64(limit) {
		c.bad = true
		return 0
	}
	return int(n)
}

func (c *cursor) duration() time.Duration { return time.Duration(c.count(math.MaxInt64)) }

func (c *cursor) text() string {
	n := c.number()
	if n > uint64(len(c.rest)) {
		c.bad, c.rest = true, ""
		return ""
	}
	s := c.rest[:n]
	c.rest = c.rest[n:]
	return s
}

func (c *cursor) fields(into []Field) []Field {
	n := c.count(maxFields)
	if 2*n > len(c.rest) {
		c.bad = true
		return nil
	}
	if cap(into) < n {
		into = make([]Field, 0, n)
	}
	for range n {
		into = append(into[:len(into):cap(into)], Field{c.text(), c.text()})
	}
	return into
}

// openHead splits a payload into its encoded head, which it copies to where
// head points, and the body bytes behind it.
func openHead(payload []byte, head *[]byte) (cursor, []byte, error) {
	if len(payload) < 4 {
		return cursor{}, nil, malformed("no head")
	}
	size := binary.LittleEndian.Uint32(payload)
	payload = payload[4:]
	if size > maxHead || int(size) > len(payload) {
		return cursor{}, nil, malformed("a head of %d bytes in a payload of %d", size, len(payload))
	}
	*head = append((*head)[:0], payload[:size]...)
	return cursor{rest: view(*head)}, payload[size:], nil
}

// view is b as a string, which changes when b does.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// parseRequest reads a request's head. Its texts point into what head points
// to, and are valid until that is used again.
func parseRequest(payload []byte, r *Request, head *[]byte) (body []byte, err error) {
	c, body, err := openHead(payload, head)
	if err != nil {
		return nil, err
	}
	r.Timeout = c.duration()
	r.Size = int64(c.count(math.MaxInt64)) - 1
	r.Method, r.Path = c.text(), c.text()
	r.Header = c.fields(r.Header[:0])
	if c.bad || c.rest != "" {
		return nil, malformed("request head")
	}
	return body, nil
}

// parseAnswer is the same for an answer's.
func parseAnswer(payload []byte, a *Answer, head *[]byte) error {
	c, body, err := openHead(payload, head)
	if err != nil {
		return err
	}
	a.Status = c.count(math.MaxInt32)
	a.Size = int64(c.count(math.MaxInt64)) - 1
	a.Header = c.fields(a.Header[:0])
	if c.bad || c.rest != "" || len(body) > 0 {
		return malformed("answer head")
	}
	return nil
}

// parseNumbers fills numbers, each at most math.MaxInt32, from a frame's payload.
func parseNumbers(payload []byte, numbers ...*int) error {
	c := cursor{rest: view(payload)}
	for _, n := range numbers {
		*n = c.count(math.MaxInt32)
	}
	if c.bad || c.rest != "" {
		return malformed("numbers")
	}
	return nil
}
