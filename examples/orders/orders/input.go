package orders

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/cqrsync/cqrsync/examples/orders/internal/web"
)

// What the limits are for: the total of the largest order fits an int64 while it is added up, and
// so do the totals of nine million orders of the largest that is taken.
const (
	maxText     = 200
	maxLines    = 1000
	maxQuantity = 1_000_000
	maxPrice    = 1_000_000_000            // cents
	maxTotal    = int64(1_000_000_000_000) // cents
)

// input is the body of POST and PUT: an order as the client may write it.
type input struct {
	Customer string      `json:"customer"`
	Status   string      `json:"status"`
	Lines    []inputLine `json:"lines"`
}

type inputLine struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
	Price    int64  `json:"price"`
}

// readOrder makes an order of the request's body, or says everything that is wrong with it.
func readOrder(r *http.Request) (*Order, error) {
	if _, err := web.Parameters(r); err != nil {
		return nil, err
	}
	in, err := web.Read[input](r)
	if err != nil {
		return nil, err
	}
	if in.Status == "" && r.Method == http.MethodPost {
		in.Status = Statuses[0]
	}
	if problems := in.problems(); len(problems) > 0 {
		return nil, problems
	}
	return in.order(), nil
}

func (in input) order() *Order {
	order := &Order{Customer: in.Customer, Status: in.Status}
	for _, line := range in.Lines {
		order.Lines = append(order.Lines, &Line{
			SKU: line.SKU, Quantity: line.Quantity, Price: line.Price,
		})
	}
	return order
}

func (in input) problems() (problems web.InvalidError) {
	text := func(field, value string) {
		switch {
		case strings.TrimSpace(value) == "":
			problems = append(problems, field+": missing")
		case len(value) > maxText:
			problems = append(problems,
				fmt.Sprintf("%s: %d bytes, want at most %d", field, len(value), maxText))
		case strings.ContainsRune(value, utf8.RuneError): // which stands for what was not text
			problems = append(problems, field+": contains something that is not UTF-8")
		case strings.ContainsRune(value, 0):
			problems = append(problems, field+": contains a NUL, which databases do not keep")
		}
	}
	number := func(field string, value, least, most int64) {
		if value < least || value > most {
			problems = append(problems, fmt.Sprintf("%s: %d, want %d to %d", field, value, least, most))
		}
	}
	text("customer", in.Customer)
	if !slices.Contains(Statuses, in.Status) {
		problems = append(problems, badStatus(in.Status))
	}
	if n := len(in.Lines); n < 1 || n > maxLines {
		problems = append(problems, fmt.Sprintf("lines: %d given, want 1 to %d", n, maxLines))
		return problems
	}
	for i, line := range in.Lines {
		field := fmt.Sprintf("lines[%d].", i)
		text(field+"sku", line.SKU)
		number(field+"quantity", line.Quantity, 1, maxQuantity)
		number(field+"price (cents)", line.Price, 0, maxPrice)
	}
	if len(problems) == 0 && total(in.order().Lines) > maxTotal {
		problems = append(problems, fmt.Sprintf("lines: %d cents in all, want at most %d",
			total(in.order().Lines), maxTotal))
	}
	return problems
}
