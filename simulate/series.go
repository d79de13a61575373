package simulate

import (
	"io"
	"math/rand/v2"
	"strconv"
)

// Dice are those that a seed stands for, for a trace that has to be drawn.
func Dice(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x7ace)) }

// A Series writes rows as CSV.
type Series struct {
	w    io.Writer
	line []byte
}

// NewSeries writes the header. The writer keeps its own errors: pass a
// [bufio.Writer] and look at what Flush says.
func NewSeries(w io.Writer) *Series {
	io.WriteString(w, "second,arrivals,want,starting,ready,in_flight,waiting,load_line,why\n")
	return &Series{w: w}
}

// Write adds a row.
func (s *Series) Write(r Row) {
	b := strconv.AppendInt(s.line[:0], r.Second, 10)
	for _, v := range [...]int{r.Arrivals, r.Want, r.Starting, r.Ready, r.InFlight, r.Waiting} {
		b = append(b, ',')
		b = strconv.AppendInt(b, int64(v), 10)
	}
	b = append(b, ',')
	b = strconv.AppendFloat(b, r.Line, 'g', 6, 64)
	b = append(b, `,"`...)
	b = append(b, r.Why.String()...)
	s.line = append(b, "\"\n"...)
	_, _ = s.w.Write(s.line)
}
