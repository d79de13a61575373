package onnx

import (
	"encoding/binary"
	"errors"
)

// Kinds of messages in a model, as far as tensors can lie in them.
type message int

const (
	model message = iota
	graph
	node
	attribute
	tensor
	sparse
	function
)

// inside says which fields of a message hold others, by their numbers in
// https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
var inside = map[message]map[uint64]message{
	model:     {7: graph, 25: function},
	graph:     {1: node, 5: tensor, 15: sparse},
	node:      {5: attribute},
	attribute: {5: tensor, 6: graph, 10: tensor, 11: graph, 22: sparse, 23: sparse},
	sparse:    {1: tensor, 2: tensor},
	function:  {7: node, 11: attribute},
}

// TensorProto's fields that point at another file.
const (
	externalData = 13
	dataLocation = 14
)

var (
	errExternal  = errors.New("the model keeps tensors in other files, which is not served; save it as one file")
	errTruncated = errors.New("the model is no ONNX file, or is cut off")
	errNested    = errors.New("the model's graphs are nested too deeply")
)

// maxNesting is far beyond what a converter makes: a graph in a node is three levels.
const maxNesting = 60

// selfContained refuses a model whose tensors lie in other files: a model made
// by outsiders must not name what the process then reads.
func selfContained(data []byte) error { return walk(data, model, 0) }

// walk goes over the fields of one protobuf message.
func walk(b []byte, what message, depth int) error {
	if depth > maxNesting {
		return errNested
	}
	for len(b) > 0 {
		key, n := binary.Uvarint(b)
		if n <= 0 {
			return errTruncated
		}
		b = b[n:]
		field := key >> 3
		if what == tensor && (field == externalData || field == dataLocation && len(b) > 0 && b[0] != 0) {
			return errExternal
		}
		var size int
		switch key & 7 {
		case 0:
			if _, size = binary.Uvarint(b); size <= 0 {
				return errTruncated
			}
		case 1:
			size = 8
		case 5:
			size = 4
		case 2:
			length, n := binary.Uvarint(b)
			if n <= 0 || length > uint64(len(b)-n) {
				return errTruncated
			}
			b = b[n:]
			size = int(length)
			if next, holds := inside[what][field]; holds {
				if err := walk(b[:size], next, depth+1); err != nil {
					return err
				}
			}
		default:
			return errTruncated // groups are not used
		}
		if size > len(b) {
			return errTruncated
		}
		b = b[size:]
	}
	return nil
}
