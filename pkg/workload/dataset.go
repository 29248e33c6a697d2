package workload

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// Dataset is a kind of generated documents.
type Dataset string

// The data sets.
const (
	OLTP    Dataset = "oltp"    // orders of a shop, about 400 bytes each
	Vectors Dataset = "vectors" // embeddings, VectorDimensions numbers each, about 7 KB
)

// Datasets are all of them.
var Datasets = []Dataset{OLTP, Vectors}

const (
	// MaxRows is the most rows that a data set has: the keys have twelve digits.
	MaxRows = 1_000_000_000_000

	// VectorDimensions is the length of an embedding.
	VectorDimensions = 768

	customers = 1_000_000
	products  = 10_000
	sampled   = 64 // rows that RowBytes looks at
)

// ParseDataset finds a data set by its name.
func ParseDataset(s string) (Dataset, error) {
	var names []string
	for _, d := range Datasets {
		if string(d) == s {
			return d, nil
		}
		names = append(names, string(d))
	}
	return "", themis.Errorf(themis.InvalidArgument, "data set %q: want %s", s, strings.Join(names, " or "))
}

// Key is that of a row, which counts from 0.
func (d Dataset) Key(row int64) string {
	if d == Vectors {
		return fmt.Sprintf("vector-%012d", row)
	}
	return fmt.Sprintf("order-%012d", row)
}

// Row is a document: a JSON object with its key in _key. The same seed and row give the same bytes, on every machine.
func (d Dataset) Row(seed uint64, row int64) []byte {
	r := draw(seed, row)
	if d == Vectors {
		return d.vector(r, row)
	}
	return d.order(r, row)
}

// RowBytes is the mean size of a row.
func (d Dataset) RowBytes(seed uint64) themis.Bytes {
	sum := 0
	for row := range int64(sampled) {
		sum += len(d.Row(seed, row))
	}
	return themis.Bytes(sum / sampled)
}

// draw is the chance of one number: that of its neighbours has nothing to do with it.
func draw(seed uint64, n int64) *rand.Rand {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	binary.LittleEndian.PutUint64(key[8:], uint64(n)) //nolint:gosec // counts from 0
	return rand.New(rand.NewChaCha8(key))             //nolint:gosec // to be repeated
}

var (
	statuses = []string{"open", "paid", "packed", "shipped", "delivered", "returned"}
	colours  = []string{"amber", "black", "blue", "copper", "green", "grey", "ivory", "red", "silver", "white"}
	things   = []string{"bag", "bell", "bottle", "chain", "cup", "frame", "glove", "helmet", "jacket", "lamp", "lock", "mirror", "pump", "saddle", "tyre", "wheel"}
	since    = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
)

// order has name and price of its products in it: no join is needed to show it.
func (d Dataset) order(r *rand.Rand, row int64) []byte {
	b := make([]byte, 0, 640)
	b = fmt.Appendf(b, `{"_key":%q,"type":"order","customer_id":"customer-%07d","status":%q,"created":%q,"currency":"EUR","lines":[`,
		d.Key(row), r.IntN(customers), statuses[r.IntN(len(statuses))], since.Add(time.Duration(r.IntN(365*86400))*time.Second).Format(time.RFC3339))
	total := 0
	for i := range 1 + r.IntN(4) {
		product, quantity := r.IntN(products), 1+r.IntN(5)
		cents := 100 + product*37%49_900 // a product has one price
		total += quantity * cents
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `{"product_id":"product-%05d","product_name":"%s %s","quantity":%d,"price_cents":%d}`,
			product, colours[product%len(colours)], things[product/len(colours)%len(things)], quantity, cents)
	}
	return fmt.Appendf(b, `],"total_cents":%d}`, total)
}

// vector is of length 1, in a direction of which each is as likely as any other.
func (d Dataset) vector(r *rand.Rand, row int64) []byte {
	var v [VectorDimensions]float64
	square := 0.0
	for i := range v {
		v[i] = r.NormFloat64()
		square += float64(v[i] * v[i]) // the conversion forbids a fused multiply-add, which rounds otherwise
	}
	b := make([]byte, 0, VectorDimensions*10+64)
	b = fmt.Appendf(b, `{"_key":%q,"type":"vector","dimensions":%d,"embedding":[`, d.Key(row), VectorDimensions)
	for i := range v {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendFloat(b, v[i]/math.Sqrt(square), 'f', 6, 64)
	}
	return append(b, "]}"...)
}
