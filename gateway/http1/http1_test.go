package http1

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// A request is what a stream was split into.
type request struct{ method, target, body string }

// An exchange is a request with the bytes it was read from.
type exchange struct {
	request
	fields   []string // those that reach the end: "name: value"
	raw      []byte
	trailers int // bytes of them
}

// split reads all requests of a stream that arrives in pieces of the given
// size, as a server does: head, body, head, body, until something is refused,
// closes the connection, or is not there.
func split(stream []byte, piece int) (whole []request, refusal *Refusal) {
	all, refusal := exchanges(stream, piece)
	for _, e := range all {
		whole = append(whole, e.request)
	}
	return whole, refusal
}

func exchanges(stream []byte, piece int) (whole []exchange, refusal *Refusal) {
	var h Head
	var have []byte
	rest, begin := bytes.Clone(stream), 0
	more := func() bool {
		n := min(piece, len(rest))
		have = append(have, rest[:n]...)
		rest = rest[n:]
		return n > 0
	}
	for {
		h.Reset()
		n, refusal := h.Read(have)
		if refusal != nil {
			return whole, refusal
		}
		if n == 0 {
			if !more() {
				return whole, nil
			}
			continue
		}
		e := exchange{request: request{method: h.Method, target: string(h.Path)}}
		if len(h.Query) > 0 {
			e.target += "?" + string(h.Query)
		}
		for _, f := range h.Fields {
			e.fields = append(e.fields, string(f.Name)+": "+string(f.Value))
		}
		length, last := h.Length, h.Close
		have = have[n:]
		var body []byte
		var c Chunks
		for h.Chunked && !c.Done() {
			data, n, refusal := c.Next(have)
			if refusal != nil {
				return whole, refusal
			}
			body = append(body, data...)
			have = have[n:]
			if n == 0 && !more() {
				return whole, nil
			}
		}
		for !h.Chunked && int64(len(have)) < length {
			if !more() {
				return whole, nil
			}
		}
		if !h.Chunked {
			body, have = append(body, have[:length]...), have[length:]
		}
		end := len(stream) - len(rest) - len(have)
		e.body, e.raw, e.trailers = string(body), stream[begin:end], c.trailer
		begin = end
		whole = append(whole, e)
		if last {
			return whole, nil
		}
	}
}

const get = "GET / HTTP/1.1\r\nHost: a\r\n"
const post = "POST /p HTTP/1.1\r\nHost: a\r\n"
const chunked = post + "Transfer-Encoding: chunked\r\n\r\n"

var long = strings.Repeat("x", 9000)

// Each of these is refused with the status given, and nothing that follows it
// on the connection is read as a request.
var strange = map[string]struct {
	stream string
	status int
}{
	"both Content-Length and Transfer-Encoding":   {post + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
	"Transfer-Encoding before Content-Length":     {post + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400},
	"two Content-Length that differ":              {post + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400},
	"two Content-Length that agree":               {post + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400},
	"Content-Length as a list":                    {post + "Content-Length: 5, 5\r\n\r\nhello", 400},
	"Content-Length with a sign":                  {post + "Content-Length: +5\r\n\r\nhello", 400},
	"Content-Length below zero":                   {post + "Content-Length: -5\r\n\r\nhello", 400},
	"Content-Length in hexadecimal":               {post + "Content-Length: 0x5\r\n\r\nhello", 400},
	"Content-Length with a blank inside":          {post + "Content-Length: 5 5\r\n\r\nhello", 400},
	"Content-Length empty":                        {post + "Content-Length:\r\n\r\nhello", 400},
	"Content-Length past 64 bits":                 {post + "Content-Length: 18446744073709551621\r\n\r\nhello", 400},
	"Transfer-Encoding folded":                    {post + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400},
	"Transfer-Encoding unknown":                   {post + "Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n", 400},
	"Transfer-Encoding identity":                  {post + "Transfer-Encoding: identity\r\n\r\n", 400},
	"Transfer-Encoding in a list":                 {post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400},
	"Transfer-Encoding chunked twice in one":      {post + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400},
	"Transfer-Encoding doubled":                   {post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
	"Transfer-Encoding with a parameter":          {post + "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", 400},
	"Transfer-Encoding with a vertical tab":       {post + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400},
	"Transfer-Encoding in quotes":                 {post + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", 400},
	"Transfer-Encoding with a blank before colon": {post + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400},
	"Transfer-Encoding on HTTP/1.0":               {"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},

	"chunk size that is no number":          {chunked + "xyz\r\n", 400},
	"chunk size empty":                      {chunked + "\r\n", 400},
	"chunk size with 0x":                    {chunked + "0x5\r\nhello\r\n0\r\n\r\n", 400},
	"chunk size with a sign":                {chunked + "+5\r\nhello\r\n0\r\n\r\n", 400},
	"chunk size below zero":                 {chunked + "-5\r\nhello\r\n0\r\n\r\n", 400},
	"chunk size with a blank before":        {chunked + " 5\r\nhello\r\n0\r\n\r\n", 400},
	"chunk size with a blank after":         {chunked + "5 \r\nhello\r\n0\r\n\r\n", 400},
	"chunk size past 64 bits":               {chunked + "10000000000000005\r\nhello\r\n0\r\n\r\n", 400},
	"chunk size with an underscore":         {chunked + "0_5\r\nhello\r\n0\r\n\r\n", 400},
	"chunk size without an end":             {chunked + strings.Repeat("0", 2000), 400},
	"chunk line ends in a bare LF":          {chunked + "5\nhello\r\n0\r\n\r\n", 400},
	"chunk line ends in a bare CR":          {chunked + "5\rhello\r\n0\r\n\r\n", 400},
	"chunk longer than its size":            {chunked + "5\r\nhello!\r\n0\r\n\r\n", 400},
	"chunk shorter than its size":           {chunked + "7\r\nhello\r\n0\r\n\r\n", 400},
	"chunk data ends in a bare LF":          {chunked + "5\r\nhello\n0\r\n\r\n", 400},
	"chunk extension over 1 kB":             {chunked + "5;" + strings.Repeat("e", 1100) + "\r\nhello\r\n0\r\n\r\n", 400},
	"chunk extension of 5 kB":               {chunked + "5;" + strings.Repeat("e", 5000) + "\r\nhello\r\n0\r\n\r\n", 400},
	"chunk extension with NUL":              {chunked + "5;a=\x00\r\nhello\r\n0\r\n\r\n", 400},
	"chunk extension with a bare LF":        {chunked + "5;a=\nb\r\nhello\r\n0\r\n\r\n", 400},
	"chunk extension with a bare CR":        {chunked + "5;a=\rb\r\nhello\r\n0\r\n\r\n", 400},
	"chunk extension that is nothing":       {chunked + "5;\r\nhello\r\n0\r\n\r\n", 400},
	"chunk extensions larger than the data": {chunked + strings.Repeat("1;"+strings.Repeat("e", 500)+"\r\nx\r\n", 4) + "0\r\n\r\n", 400},
	"trailer with a bare LF":                {chunked + "0\r\nX: y\n\r\n", 400},
	"trailers end in a bare LF":             {chunked + "0\r\n\n", 400},
	"trailer with NUL":                      {chunked + "0\r\nX: \x00\r\n\r\n", 400},
	"trailer folded":                        {chunked + "0\r\nX: y\r\n z\r\n\r\n", 400},
	"trailer without a colon":               {chunked + "0\r\nXY\r\n\r\n", 400},
	"trailer with a space in its name":      {chunked + "0\r\nX Y: z\r\n\r\n", 400},
	"trailer without a name":                {chunked + "0\r\n: z\r\n\r\n", 400},
	"trailer that frames":                   {chunked + "0\r\nContent-Length: 5\r\n\r\n", 400},
	"trailer that shadows a framing field":  {chunked + "0\r\nTransfer_Encoding: chunked\r\n\r\n", 400},
	"trailer that says who asks":            {chunked + "0\r\nAuthorization: Bearer x\r\n\r\n", 400},
	"trailers over 8 kB":                    {chunked + "0\r\nX: " + long + "\r\n\r\n", 431},
	"200 trailers":                          {chunked + "0\r\n" + strings.Repeat("X: y\r\n", 200) + "\r\n", 431},

	"bare LF after the request line": {"GET / HTTP/1.1\nHost: a\r\n\r\n", 400},
	"bare LF after a field":          {"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400},
	"bare LF as the end of the head": {get + "\n", 400},
	"LF alone at the very start":     {"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"empty line at the very start":   {"\r\n" + get + "\r\n", 400},
	"NUL in a value":                 {get + "X: a\x00b\r\n\r\n", 400},
	"CR in a value":                  {get + "X: a\rb\r\n\r\n", 400},
	"CR at the end of a value":       {get + "X: a\r\r\n\r\n", 400},
	"DEL in a value":                 {get + "X: a\x7fb\r\n\r\n", 400},
	"empty name":                     {get + ": b\r\n\r\n", 400},
	"space in a name":                {get + "X Y: b\r\n\r\n", 400},
	"blank before the colon":         {get + "X : b\r\n\r\n", 400},
	"tab before the colon":           {get + "X\t: b\r\n\r\n", 400},
	"NUL in a name":                  {get + "X\x00: b\r\n\r\n", 400},
	"byte over 127 in a name":        {get + "Xé: b\r\n\r\n", 400},
	"quote in a name":                {get + "\"X\": b\r\n\r\n", 400},
	"field without a colon":          {get + "XY\r\n\r\n", 400},
	"folded field":                   {get + "X: a\r\n b\r\n\r\n", 400},
	"field folded with a tab":        {get + "X: a\r\n\tb\r\n\r\n", 400},
	"first field folded":             {"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400},

	"no Host":                       {"GET / HTTP/1.1\r\nX: y\r\n\r\n", 400},
	"no field at all":               {"GET / HTTP/1.1\r\n\r\n", 400},
	"no Host in HTTP/1.0":           {"GET / HTTP/1.0\r\n\r\n", 400},
	"two Host":                      {get + "Host: b\r\n\r\n", 400},
	"two Host that agree":           {get + "Host: a\r\n\r\n", 400},
	"empty Host":                    {"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400},
	"Host with a path":              {"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400},
	"Host with a user":              {"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400},
	"Host with a blank":             {"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
	"Host with a comma":             {"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400},
	"Host with a port past 65535":   {"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", 400},
	"Host with an empty port":       {"GET / HTTP/1.1\r\nHost: a:\r\n\r\n", 400},
	"Host with two ports":           {"GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", 400},
	"Host that is only a port":      {"GET / HTTP/1.1\r\nHost: :80\r\n\r\n", 400},
	"Host with an open bracket":     {"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400},
	"Host with junk after brackets": {"GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n", 400},
	"absolute form, foreign host":   {"GET http://evil/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"absolute form, foreign port":   {"GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"absolute form with a user":     {"GET http://a@evil/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"absolute form, other scheme":   {"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"absolute form without a path":  {"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"relative target":               {"GET x HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"asterisk":                      {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400},

	"underscore shadows Content-Length":    {get + "Content_Length: 5\r\n\r\n", 400},
	"underscore shadows Transfer-Encoding": {get + "Transfer_Encoding: chunked\r\n\r\n", 400},
	"underscore shadows X-Forwarded-For":   {get + "X_Forwarded_For: 1.2.3.4\r\n\r\n", 400},
	"half an underscore shadows too":       {get + "X-Forwarded_User: root\r\n\r\n", 400},
	"Connection names Authorization":       {get + "Connection: close, Authorization\r\n\r\n", 400},
	"Connection names X-Forwarded-For":     {get + "Connection: x-forwarded-for\r\n\r\n", 400},
	"Connection names Cookie":              {get + "Connection: COOKIE\r\n\r\n", 400},
	"Connection names Content-Length":      {post + "Connection: content-length\r\nContent-Length: 2\r\n\r\nhi", 400},
	"Connection is no list of names":       {get + "Connection: a b\r\n\r\n", 400},
	"Connection names a dozen fields":      {get + "Connection: a,b,c,d,e,f,g,i,j,k,l,m\r\n\r\n", 400},
	"Expect something else":                {post + "Expect: 200-ok\r\nContent-Length: 1\r\n\r\nx", 417},
	"Expect twice":                         {post + "Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx", 417},

	"CONNECT":                      {"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405},
	"PRI":                          {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 405},
	"TRACE":                        {"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405},
	"lower-case method":            {"get / HTTP/1.1\r\nHost: a\r\n\r\n", 501},
	"unknown method":               {"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501},
	"method with a strange byte":   {"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"HTTP/0.9":                     {"GET /\r\n\r\n", 400},
	"HTTP/2.0 in words":            {"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505},
	"HTTP/1.2":                     {"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505},
	"lower-case version":           {"GET / http/1.1\r\nHost: a\r\n\r\n", 400},
	"version with more digits":     {"GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400},
	"two blanks before the target": {"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"blank inside the target":      {"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"tab for a blank":              {"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"blank after the version":      {"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400},
	"blank before the method":      {" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},

	"200 fields":                      {get + strings.Repeat("X: y\r\n", 200) + "\r\n", 431},
	"129 fields":                      {get + strings.Repeat("X: y\r\n", 128) + "\r\n", 431},
	"head over 32 kB in fields":       {get + strings.Repeat("X: "+long[:1000]+"\r\n", 40) + "\r\n", 431},
	"head over 32 kB in one field":    {get + "X: " + strings.Repeat("y", 40000) + "\r\n\r\n", 431},
	"head over 32 kB without end":     {get + "X: " + strings.Repeat("y", 40000), 431},
	"target over 8 kB":                {"GET /" + long + " HTTP/1.1\r\nHost: a\r\n\r\n", 414},
	"target over 8 kB without end":    {"GET /" + long, 414},
	"query over 8 kB":                 {"GET /?" + long + " HTTP/1.1\r\nHost: a\r\n\r\n", 414},
	"TLS hello on a plain port":       {"\x16\x03\x01\x02\x00\x01\x00", 400},
	"escaped NUL in the path":         {"GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"escaped NUL in the query":        {"GET /a?b=%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"escaped line end in the path":    {"GET /a%0d%0ab HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"..%2f":                           {"GET /a/..%2fb HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"%2e%2e/":                         {"GET /a/%2e%2e/b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"%2e%2e%2f":                       {"GET /%2e%2E%2Fb HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"..%5c":                           {"GET /a/..%5cb HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"/a/../":                          {"GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"/.. at the end":                  {"GET /a/.. HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"/./":                             {"GET /a/./b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"//":                              {"GET //a HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"// inside":                       {"GET /a//b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"/%2f":                            {"GET /a/%2fb HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"broken escape":                   {"GET /a%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"escape cut short":                {"GET /a%2 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"backslash in the path":           {"GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"fragment in the target":          {"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"byte over 127 in the path":       {"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"control character in the target": {"GET /a\x01b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	"NUL in the query":                {"GET /a?\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
}

func TestStrangeRequestsAreRefused(t *testing.T) {
	for sentence, c := range strange {
		t.Run(sentence, func(t *testing.T) {
			for _, piece := range []int{1 << 20, 7, 1} {
				whole, refusal := split([]byte(c.stream+get+"\r\n"), piece)
				if refusal == nil || refusal.Status != c.status || len(whole) != 0 {
					t.Errorf("in pieces of %d: got %v and %v, want %d and no request", piece, whole, refusal, c.status)
				}
			}
		})
	}
}

var q4k = strings.Repeat("q", 4096)

// Each of these is legal, however rare, and must be split as written here.
var legal = map[string]struct {
	stream string
	want   []request
}{
	"a plain GET":                    {get + "\r\n", []request{{"GET", "/", ""}}},
	"a body":                         {post + "Content-Length: 5\r\n\r\nhello", []request{{"POST", "/p", "hello"}}},
	"no body":                        {post + "\r\n", []request{{"POST", "/p", ""}}},
	"Content-Length zero":            {post + "Content-Length: 0\r\n\r\n", []request{{"POST", "/p", ""}}},
	"blanks around a length":         {post + "Content-Length: \t5 \r\n\r\nhello", []request{{"POST", "/p", "hello"}}},
	"chunks":                         {chunked + "5\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n", []request{{"POST", "/p", "hello0123456789"}}},
	"chunked in capitals":            {post + "TRANSFER-ENCODING: Chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", []request{{"POST", "/p", "x"}}},
	"zeros before a size":            {chunked + "00005\r\nhello\r\n000\r\n\r\n", []request{{"POST", "/p", "hello"}}},
	"a small extension":              {chunked + "5;a=\"b c\"\r\nhello\r\n0;z\r\n\r\n", []request{{"POST", "/p", "hello"}}},
	"a trailer":                      {chunked + "0\r\nX-Sum: 1\r\n\r\n", []request{{"POST", "/p", ""}}},
	"two requests in one write":      {get + "\r\n" + post + "Content-Length: 2\r\n\r\nhi", []request{{"GET", "/", ""}, {"POST", "/p", "hi"}}},
	"a request after chunks":         {chunked + "2\r\nhi\r\n0\r\n\r\n" + get + "\r\n", []request{{"POST", "/p", "hi"}, {"GET", "/", ""}}},
	"nothing after Connection close": {get + "Connection: close\r\n\r\n" + get + "\r\n", []request{{"GET", "/", ""}}},
	"nothing after HTTP/1.0":         {"GET / HTTP/1.0\r\nHost: a\r\n\r\n" + get + "\r\n", []request{{"GET", "/", ""}}},
	"HTTP/1.0 keeps alive if asked":  {"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n" + get + "\r\n", []request{{"GET", "/", ""}, {"GET", "/", ""}}},
	"absolute form of this host":     {"GET http://A:80/x?y HTTP/1.1\r\nHost: a:80\r\n\r\n", []request{{"GET", "/x?y", ""}}},
	"an IPv6 host":                   {"GET / HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n", []request{{"GET", "/", ""}}},
	"a query of 4 kB":                {"GET /?" + q4k + " HTTP/1.1\r\nHost: a\r\n\r\n", []request{{"GET", "/?" + q4k, ""}}},
	"24 kB of fields":                {get + strings.Repeat("X: "+q4k[:1000]+"\r\n", 24) + "\r\n", []request{{"GET", "/", ""}}},
	"128 fields":                     {get + strings.Repeat("X: y\r\n", 127) + "\r\n", []request{{"GET", "/", ""}}},
	"an empty value":                 {get + "X:\r\n\r\n", []request{{"GET", "/", ""}}},
	"a value beyond ASCII":           {get + "X: é\r\n\r\n", []request{{"GET", "/", ""}}},
	"an upgrade, as a plain request": {get + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n", []request{{"GET", "/", ""}}},
	"dots within a segment":          {"GET /a.b/..c/d../.e/... HTTP/1.1\r\nHost: a\r\n\r\n", []request{{"GET", "/a.b/..c/d../.e/...", ""}}},
	"an escape":                      {"GET /a%20b%2fc HTTP/1.1\r\nHost: a\r\n\r\n", []request{{"GET", "/a%20b%2fc", ""}}},
	"a sloppy query":                 {"GET /?a=100%&b={\"c\"}|[d] HTTP/1.1\r\nHost: a\r\n\r\n", []request{{"GET", "/?a=100%&b={\"c\"}|[d]", ""}}},
}

func TestLegalRequestsAreRead(t *testing.T) {
	for sentence, c := range legal {
		t.Run(sentence, func(t *testing.T) {
			for _, piece := range []int{1 << 20, 7, 1} {
				whole, refusal := split([]byte(c.stream), piece)
				if fmt.Sprint(whole) != fmt.Sprint(c.want) || refusal != nil {
					t.Errorf("in pieces of %d: got %.200q and %v, want %.200q", piece, whole, refusal, c.want)
				}
			}
		})
	}
}

// What concerns one connection stays on it; what has an underscore is dropped
// and counted; the rest reaches the end in order.
func TestFieldsThatReachTheEnd(t *testing.T) {
	var h Head
	stream := post + "X-One: 1\r\nUser_Name: root\r\nUpgrade: websocket\r\nConnection: Upgrade, X-Gone\r\nX-Gone: 2\r\n" +
		"TE: trailers\r\nKeep-Alive: timeout=5\r\nHTTP2-Settings: x\r\nExpect: 100-Continue\r\nContent-Length: 3\r\nAuthorization: Bearer t\r\nX-Two: 3\r\n\r\n"
	n, refusal := h.Read([]byte(stream))
	if n != len(stream) || refusal != nil {
		t.Fatalf("Read = %d, %v", n, refusal)
	}
	var got []string
	for _, f := range h.Fields {
		got = append(got, string(f.Name)+"="+string(f.Value))
	}
	if want := "x-one=1 authorization=Bearer t x-two=3"; strings.Join(got, " ") != want {
		t.Errorf("fields %q, want %q", got, want)
	}
	if h.Dropped != 1 || !h.Continue || h.Close || h.Length != 3 || string(h.Host) != "a" {
		t.Errorf("got %+v", h)
	}
	if v, count := h.Field("x-two"); string(v) != "3" || count != 1 {
		t.Errorf("Field(x-two) = %q, %d", v, count)
	}
}

// Nobody waits for a 100 that has no body to send, and HTTP/1.0 does not know it.
func TestContinueOnlyBeforeABody(t *testing.T) {
	for stream, want := range map[string]bool{
		post + "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n":                        true,
		post + "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n":               true,
		post + "Expect: 100-continue\r\n\r\n":                                             false,
		"POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n": false,
	} {
		var h Head
		if _, refusal := h.Read([]byte(stream)); refusal != nil || h.Continue != want {
			t.Errorf("%q: Continue %v, %v", stream, h.Continue, refusal)
		}
	}
}

func FuzzHead(f *testing.F) {
	f.Add([]byte(get + "\r\n"))
	f.Add([]byte(chunked + "5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n" + get + "\r\n"))
	f.Add([]byte(post + "Content-Length: 5\r\nExpect: 100-continue\r\nConnection: x, close\r\n\r\nhello"))
	f.Add([]byte("GET http://a/%2e?x HTTP/1.0\r\nHost: a\r\n\r\n"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		if len(stream) > 64<<10 {
			return
		}
		want, refused := split(stream, len(stream)+1)
		got, again := split(stream, 3)
		if fmt.Sprint(got) != fmt.Sprint(want) || (refused == nil) != (again == nil) {
			t.Fatalf("whole: %q %v; in pieces: %q %v", want, refused, got, again)
		}
	})
}

func FuzzChunks(f *testing.F) {
	f.Add([]byte("5\r\nhello\r\n0\r\n\r\n"), 1)
	f.Add([]byte("5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\nGET"), 3)
	f.Fuzz(func(t *testing.T, stream []byte, piece int) {
		if piece < 1 || len(stream) > 64<<10 {
			return
		}
		read := func(piece int) (string, bool, bool) {
			var c Chunks
			var have, body []byte
			rest := bytes.Clone(stream)
			for !c.Done() {
				data, n, refusal := c.Next(have)
				if n > len(have) || len(data) > n {
					t.Fatalf("consumed %d of %d, data %d", n, len(have), len(data))
				}
				if refusal != nil {
					return string(body), false, true
				}
				body = append(body, data...)
				have = have[n:]
				if n == 0 {
					more := min(piece, len(rest))
					if more == 0 {
						return string(body), false, false
					}
					have = append(have, rest[:more]...)
					rest = rest[more:]
				}
			}
			return string(body), true, false
		}
		b1, done1, bad1 := read(len(stream) + 1)
		b2, done2, bad2 := read(piece)
		if done1 != done2 || bad1 != bad2 || done1 && b1 != b2 {
			t.Fatalf("whole %q %v %v, in pieces of %d %q %v %v", b1, done1, bad1, piece, b2, done2, bad2)
		}
	})
}

var typical = []byte("POST /serving-endpoints/fraud/invocations HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nUser-Agent: python-requests/2.32.3\r\n" +
	"Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\nContent-Type: application/json\r\n" +
	"Authorization: Bearer 0123456789abcdef0123456789abcdef\r\nContent-Length: 90\r\n\r\n")

func BenchmarkHead(b *testing.B) {
	b.ReportAllocs()
	b.SetBytes(int64(len(typical)))
	var h Head
	for b.Loop() {
		h.Reset()
		if n, refusal := h.Read(typical); n != len(typical) {
			b.Fatal(refusal)
		}
	}
}

func BenchmarkChunks(b *testing.B) {
	b.ReportAllocs()
	stream := []byte(strings.Repeat("400\r\n"+strings.Repeat("x", 1024)+"\r\n", 16) + "0\r\n\r\n")
	b.SetBytes(int64(len(stream)))
	for b.Loop() {
		var c Chunks
		for rest := stream; !c.Done(); {
			_, n, refusal := c.Next(rest)
			if refusal != nil || n == 0 {
				b.Fatal(n, refusal)
			}
			rest = rest[n:]
		}
	}
}

func TestReadingAHeadAllocatesNothing(t *testing.T) {
	var h Head
	read := func() {
		h.Reset()
		h.Read(typical)
	}
	read()
	if n := testing.AllocsPerRun(100, read); n != 0 {
		t.Errorf("%v allocations a head", n)
	}
}
