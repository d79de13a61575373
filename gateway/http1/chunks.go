package http1

import "bytes"

// Chunks reads a chunked body. The zero value is ready for the first chunk.
type Chunks struct {
	state   chunkState
	left    int64 // bytes of the current chunk still to come
	Data    int64 // bytes of data, the whole current chunk included
	exts    int64 // bytes of extensions so far
	trailer int   // bytes of trailers so far
	fields  int   // trailers so far
}

type chunkState uint8

const (
	inSize    chunkState = iota // before or within a line with a size
	inData                      // within a chunk
	inEnd                       // at the CRLF that follows a chunk
	inTrailer                   // after the last chunk
	chunksEnd
)

// Done reports whether the whole body was read.
func (c *Chunks) Done() bool { return c.state == chunksEnd }

// Next reads from the start of buf. It consumes n bytes of it and returns the
// data among them, a part of buf. When both are empty and the body is not
// [Chunks.Done], more bytes are needed: the next call gets the rest of buf and more.
func (c *Chunks) Next(buf []byte) (data []byte, n int, refusal *Refusal) {
	for {
		var used int
		switch c.state {
		case inSize:
			used, refusal = c.size(buf[n:])
		case inData:
			take := min(int64(len(buf)-n), c.left)
			data = buf[n : n+int(take)]
			c.left -= take
			if c.left == 0 {
				c.state = inEnd
			}
			return data, n + int(take), nil
		case inEnd:
			used, refusal = c.end(buf[n:])
		case inTrailer:
			used, refusal = c.trailers(buf[n:])
		case chunksEnd:
			return nil, n, nil
		}
		if refusal != nil {
			return nil, n, refusal
		}
		if used == 0 {
			return nil, n, nil
		}
		n += used
	}
}

// maxSizeDigits keeps a size, and any sum of sizes within a body limit, far from overflow.
const maxSizeDigits = 15

func (c *Chunks) size(buf []byte) (int, *Refusal) {
	line, used, refusal := cutLine(buf, maxSizeDigits+MaxExt+2, errChunkLine)
	if used == 0 || refusal != nil {
		return 0, refusal
	}
	digits := 0
	var size int64
	for _, b := range line {
		d, ok := hexDigit(b)
		if !ok {
			break
		}
		digits++
		size = size<<4 | int64(d)
		if digits > maxSizeDigits {
			return 0, errChunkSize
		}
	}
	if digits == 0 {
		return 0, errChunkSize
	}
	if refusal := c.extension(line[digits:]); refusal != nil {
		return 0, refusal
	}
	c.left = size
	c.Data += size
	c.state = inData
	if size == 0 {
		c.state = inTrailer
	}
	return used, nil
}

// extension judges what follows a size. Extensions mean nothing to us; they
// are only measured, so that a body cannot be mostly made of them.
func (c *Chunks) extension(ext []byte) *Refusal {
	if len(ext) == 0 {
		return nil
	}
	if ext[0] != ';' {
		return errChunkSize
	}
	if len(ext) < 2 || len(ext) > MaxExt || class[ext[1]]&token == 0 || !all(ext, text) {
		return errChunkExt
	}
	c.exts += int64(len(ext))
	if c.exts > MaxExt+c.Data/8 {
		return errChunkExts
	}
	return nil
}

func (c *Chunks) end(buf []byte) (int, *Refusal) {
	if len(buf) > 0 && buf[0] != '\r' || len(buf) > 1 && buf[1] != '\n' {
		return 0, errChunkEnd
	}
	if len(buf) < 2 {
		return 0, nil
	}
	c.state = inSize
	return 2, nil
}

// trailers reads one line after the last chunk. Trailers are judged as fields
// of a head are, and dropped: nothing we serve has a use for them.
func (c *Chunks) trailers(buf []byte) (int, *Refusal) {
	line, used, refusal := cutLine(buf, MaxTrailer-c.trailer, errTrailers)
	if used == 0 || refusal != nil {
		return 0, refusal
	}
	c.trailer += used
	if len(line) == 0 {
		c.state = chunksEnd
		return used, nil
	}
	c.fields++
	if c.fields > MaxFields {
		return 0, errTrailers
	}
	if line[0] == ' ' || line[0] == '\t' {
		return 0, errFold
	}
	name, value, ok := bytes.Cut(line, []byte{':'})
	if !ok {
		return 0, errNoColon
	}
	if len(name) == 0 || !all(name, token) {
		return 0, errName
	}
	if !all(value, text) {
		return 0, errValue
	}
	for i, b := range name {
		name[i] = lower[b]
	}
	if shadows(name) { // also true of a reserved name as it is
		return 0, errTrailer
	}
	return used, nil
}

// cutLine returns the first line of buf, which must end in CRLF within limit
// bytes, and how many bytes it takes; zero when its end is not there yet.
func cutLine(buf []byte, limit int, tooLong *Refusal) ([]byte, int, *Refusal) {
	i := bytes.IndexByte(buf, '\n')
	switch {
	case i < 0 && len(buf) > limit || i >= limit:
		return nil, 0, tooLong
	case i < 0:
		return nil, 0, nil
	case i == 0 || buf[i-1] != '\r':
		return nil, 0, errBareLF
	}
	return buf[:i-1], i + 1, nil
}
