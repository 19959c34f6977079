/* The stages of an interval as functions of (1, dx_k, dq_{k+1}), for `_newton.c`; four intervals at a time.

   With f_z = [A, B] and Λ = diag(b), the matrix of the state equations, M = α ⊗ I − h A, and that of the costate
   equations, Λ⁻¹ Mᵀ Λ, share one decomposition. What is left is a system for the controls, whose matrix is the Hessian
   of the Hamiltonian on the solutions of the state equations. Neither needs row exchanges where the mesh resolves the
   dynamics and this Hessian is positive definite, or no factor is large; elsewhere one dense system is eliminated.
*/
#include <Python.h>
#include <limits.h>
#include <math.h>
#include <string.h>

/* Versions for processors with wider arithmetic; the loader chooses. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define WIDE __attribute__((target_clones("fma", "default")))
#else
#define WIDE
#endif
#define INLINE static inline __attribute__((always_inline))

/* Eliminate the first `columns` columns of a (rows, width); 0 if a pivot vanishes or is no number. */
WIDE static int reduce(double *a, int rows, int width, int columns)
{
    for (int c = 0; c < columns; c++) {
        int best = c;
        double size = fabs(a[c * width + c]);
        for (int r = c + 1; r < rows; r++)
            if (fabs(a[r * width + c]) > size) {
                size = fabs(a[r * width + c]);
                best = r;
            }
        if (!(size > 0.0 && isfinite(size)))
            return 0;
        double *restrict pivot = a + c * width;
        if (best != c) {
            double *other = a + best * width;
            for (int j = c; j < width; j++) {
                double swap = pivot[j];
                pivot[j] = other[j];
                other[j] = swap;
            }
        }
        double inverse = 1.0 / pivot[c];
        for (int r = c + 1; r < rows; r++) {
            double *restrict row = a + r * width, factor = row[c] * inverse;
            if (factor != 0.0)
                for (int j = c + 1; j < width; j++)
                    row[j] -= factor * pivot[j];
        }
    }
    return 1;
}

/* Solve the triangular system that `reduce` left in the first n rows and columns; the columns after them are overwritten. */
WIDE static void substitute(double *a, int n, int width)
{
    for (int i = n - 1; i >= 0; i--) {
        double *restrict row = a + i * width;
        for (int l = i + 1; l < n; l++) {
            const double *restrict known = a + l * width;
            double factor = row[l];
            if (factor != 0.0)
                for (int j = n; j < width; j++)
                    row[j] -= factor * known[j];
        }
        double inverse = 1.0 / row[i];
        for (int j = n; j < width; j++)
            row[j] *= inverse;
    }
}

enum { ALPHA, ADJOINT, ROW, D_, B_, TABLES };
enum { H, HESSIAN, RATES, RIGHT_Z, RIGHT_P, GAP_X, GAP_Q, INSIDE };
enum { START_X, START_Q, START_RIGHT, END_HESSIAN, JACOBIAN, SLACK, END_RIGHT, CONSTRAINT_RIGHT, ENDS };
enum { X, U, P, NODES, COSTATES, MULTIPLIERS, RESULTS };

typedef struct {
    Py_buffer tables[TABLES], inside[INSIDE], ends[ENDS], results[RESULTS];
    int N, s, G, v, m, e;
} System;

static double *at(const Py_buffer *b, Py_ssize_t i, Py_ssize_t j, Py_ssize_t k)
{
    char *place = (char *)b->buf + i * b->strides[0] + j * b->strides[1];
    return (double *)(b->ndim > 2 ? place + k * b->strides[2] : place);
}

/* Stages of interval k: rows (S, S + 1 + 2v) of [matrix | right-hand side, dx_k, dq_{k+1}]. */
static void stages(const System *y, int k, int g, double *a)
{
    const int s = y->s, v = y->v, D = y->v + y->m, split = s * D, S = s * (D + v), width = S + 1 + 2 * v;
    const double *alpha = y->tables[ALPHA].buf, *adjoint = y->tables[ADJOINT].buf, *row = y->tables[ROW].buf;
    const double *d = y->tables[D_].buf, *b = y->tables[B_].buf;
    const double h = *at(&y->inside[H], k, g, 0);
    memset(a, 0, sizeof(double) * S * width);
    for (int i = 0; i < s; i++) {
        const double *W = at(&y->inside[HESSIAN], k, i, g), *f = at(&y->inside[RATES], k, i, g);
        const double *rz = at(&y->inside[RIGHT_Z], k, i, g), *rp = at(&y->inside[RIGHT_P], k, i, g);
        for (int r = 0; r < D; r++) {
            double *line = a + (i * D + r) * width;
            for (int c = 0; c < D; c++)
                line[i * D + c] = h * W[r * D + c];
            for (int c = 0; c < v; c++)
                line[split + i * v + c] = -h * f[c * D + r];
            line[S] = rz[r];
        }
        for (int r = 0; r < v; r++) {
            double *upper = a + (i * D + r) * width, *lower = a + (split + i * v + r) * width;
            for (int j = 0; j < s; j++) {
                upper[split + j * v + r] += adjoint[i * s + j];
                lower[j * D + r] += alpha[i * s + j];
            }
            for (int c = 0; c < D; c++)
                lower[i * D + c] -= h * f[r * D + c];
            upper[S + 1 + v + r] = d[i] / b[i];
            lower[S + 1 + r] = row[i];
            lower[S] = rp[r];
        }
    }
}

/* Interval k in full: one dense system, eliminated with pivots; found (S, 1 + 2v), 0 if it is singular. */
static int eliminate(const System *y, int k, int g, double *work, double *found)
{
    const int v = y->v, S = y->s * (2 * v + y->m), inputs = 1 + 2 * v, width = S + inputs;
    stages(y, k, g, work);
    if (!reduce(work, S, width, S))
        return 0;
    substitute(work, S, width);
    for (int r = 0; r < S; r++)
        memcpy(found + r * inputs, work + r * width + S, sizeof(double) * inputs);
    return 1;
}

/* ------------------------------------------------------------------------------------------- four intervals at once */

enum { LANES = 4 };
typedef double lanes __attribute__((vector_size(LANES * sizeof(double)), aligned(sizeof(double))));
typedef long long masks __attribute__((vector_size(LANES * sizeof(long long)), aligned(sizeof(long long))));

static const double LARGEST = 1e3; /* factor of an elimination without pivots */
static const double CANCELLED = 1e-6; /* pivot relative to the largest entry of its column */

#define SPREAD(x) ((lanes){(x), (x), (x), (x)})
#define GATHER(p, i) ((lanes){(p)[0][i], (p)[1][i], (p)[2][i], (p)[3][i]})

/* b = max(b, |a|) */
INLINE void raise_to(lanes *b, const lanes *a)
{
    const lanes size = (lanes)((masks)*a & LLONG_MAX); /* without the sign bit */
    const masks more = size > *b;
    *b = (lanes)((more & (masks)size) | (~more & (masks)*b));
}

/* Eliminate the first n columns of a (n, width) without row exchanges; factors and inverse pivots stay in their places,
   and `largest` is the largest factor. */
INLINE void reduce_lanes(lanes *a, int n, int width, lanes *largest)
{
    for (int c = 0; c < n; c++) {
        lanes *pivot = a + c * width;
        const lanes inverse = 1.0 / pivot[c];
        pivot[c] = inverse;
        for (int r = c + 1; r < n; r++) {
            lanes *row = a + r * width;
            const lanes factor = row[c] * inverse;
            row[c] = factor;
            raise_to(largest, &factor);
            for (int j = c + 1; j < width; j++)
                row[j] -= factor * pivot[j];
        }
    }
}

/* Solve with the triangle above the diagonal that `reduce_lanes` left; the columns after it are overwritten. */
INLINE void substitute_lanes(lanes *a, int n, int width)
{
    for (int i = n - 1; i >= 0; i--) {
        lanes *row = a + i * width;
        for (int l = i + 1; l < n; l++) {
            const lanes *known = a + l * width, factor = row[l];
            for (int j = n; j < width; j++)
                row[j] -= factor * known[j];
        }
        for (int j = n; j < width; j++)
            row[j] *= row[i];
    }
}

/* Solve with the transpose of what `reduce_lanes` decomposed in a (n, width): rows (n, columns) are overwritten. */
INLINE void substitute_transposed(const lanes *a, int n, int width, lanes *rows, int columns)
{
    for (int i = 0; i < n; i++) {
        lanes *row = rows + i * columns;
        for (int j = 0; j < columns; j++)
            row[j] *= a[i * width + i];
        for (int l = i + 1; l < n; l++) {
            const lanes factor = a[i * width + l];
            for (int j = 0; j < columns; j++)
                rows[l * columns + j] -= factor * row[j];
        }
    }
    for (int i = n - 1; i > 0; i--)
        for (int l = 0; l < i; l++) {
            const lanes factor = a[i * width + l];
            for (int j = 0; j < columns; j++)
                rows[l * columns + j] -= factor * rows[i * columns + j];
        }
}

/* The intervals k, k + 1, … of a group, condensed: found (S, 1 + 2v) in the order of `stages`, and whether each can be
   trusted. In `work` [M | columns of (1, dx_k, dU)], the sums T of the x-rows, the system for dU, and Λ dP. */
WIDE static void condense(const System *y, int first, int g, lanes *work, lanes *found, int *trusted)
{
    const int s = y->s, v = y->v, m = y->m, D = v + m, n = s * v, q = s * m, split = s * D;
    const int before = 1 + v, known = before + q, width = n + known, inputs = 1 + 2 * v, right = q + inputs;
    const double *alpha = y->tables[ALPHA].buf, *row = y->tables[ROW].buf;
    const double *d = y->tables[D_].buf, *b = y->tables[B_].buf;
    lanes *states = work, *sums = states + n * width, *controls = sums + n * known, *costates = controls + q * right;
    memset(work, 0, sizeof(lanes) * (n * width + n * known + q * right));

    int k[LANES]; /* the last one stands in for those that are not there */
    for (int l = 0; l < LANES; l++)
        k[l] = first + l < y->N ? first + l : y->N - 1;
    const double *hs[LANES], *f[LANES], *rp[LANES], *W[LANES], *rz[LANES];
    for (int l = 0; l < LANES; l++)
        hs[l] = at(&y->inside[H], k[l], g, 0);
    const lanes h = GATHER(hs, 0);

    for (int i = 0; i < s; i++) {
        for (int l = 0; l < LANES; l++) {
            f[l] = at(&y->inside[RATES], k[l], i, g);
            rp[l] = at(&y->inside[RIGHT_P], k[l], i, g);
        }
        for (int r = 0; r < v; r++) {
            lanes *line = states + (i * v + r) * width;
            for (int j = 0; j < s; j++)
                line[j * v + r] = SPREAD(alpha[i * s + j]);
            for (int c = 0; c < v; c++)
                line[i * v + c] -= h * GATHER(f, r * D + c);
            line[n] = GATHER(rp, r);
            line[n + 1 + r] = SPREAD(row[i]);
            for (int c = 0; c < m; c++)
                line[n + before + i * m + c] = h * GATHER(f, r * D + v + c);
        }
    }
    lanes *column = costates; /* largest entries of M */
    for (int c = 0; c < n; c++) {
        column[c] = SPREAD(0.0);
        for (int r = 0; r < n; r++)
            raise_to(column + c, states + r * width + c);
    }
    lanes factor = SPREAD(0.0);
    masks good = (masks)SPREAD(0.0) == 0, convex = good;
    reduce_lanes(states, n, width, &factor);
    for (int c = 0; c < n; c++) {
        lanes size = SPREAD(0.0);
        raise_to(&size, states + c * width + c);
        good &= size * column[c] * CANCELLED < 1.0;
    }
    good &= factor < LARGEST;
    substitute_lanes(states, n, width);
    const lanes *columns = states + n; /* M⁻¹ [r_p, row ⊗ I, h B] */

    for (int i = 0; i < s; i++) {
        for (int l = 0; l < LANES; l++) {
            W[l] = at(&y->inside[HESSIAN], k[l], i, g);
            rz[l] = at(&y->inside[RIGHT_Z], k[l], i, g);
        }
        for (int r = 0; r < v; r++) { /* T = h H_xx dX + h H_xu dU − r_x as a function of (1, dx_k, dU) */
            lanes *sum = sums + (i * v + r) * known;
            for (int l = 0; l < v; l++) {
                const lanes *from = columns + (i * v + l) * width, scale = h * GATHER(W, r * D + l);
                for (int c = 0; c < known; c++)
                    sum[c] += scale * from[c];
            }
            for (int c = 0; c < m; c++)
                sum[before + i * m + c] += h * GATHER(W, r * D + v + c);
            sum[0] -= GATHER(rz, r);
        }
        for (int r = 0; r < m; r++) { /* b (h H_ux dX + h H_uu dU − r_u): columns of dU, then of −1 and −dx_k */
            lanes *out = controls + (i * m + r) * right;
            for (int l = 0; l < v; l++) {
                const lanes *from = columns + (i * v + l) * width, scale = b[i] * h * GATHER(W, (v + r) * D + l);
                for (int c = 0; c < q; c++)
                    out[c] += scale * from[before + c];
                for (int c = 0; c < before; c++)
                    out[q + c] -= scale * from[c];
            }
            for (int c = 0; c < m; c++)
                out[i * m + c] += b[i] * h * GATHER(W, (v + r) * D + v + c);
            out[q] += b[i] * GATHER(rz, v + r);
        }
    }
    for (int i = 0; i < n; i++) { /* − h Bᵀ Λ dP = − Gᵀ Λ (d/b dq_{k+1} − T), with G the columns of dU */
        const lanes *from = columns + i * width + before, *sum = sums + i * known;
        for (int l = 0; l < q; l++) {
            lanes *out = controls + l * right;
            const lanes scale = b[i / v] * from[l];
            for (int c = 0; c < q; c++)
                out[c] += scale * sum[before + c];
            for (int c = 0; c < before; c++)
                out[q + c] -= scale * sum[c];
            out[q + before + i % v] += d[i / v] * from[l];
        }
    }
    factor = SPREAD(0.0);
    reduce_lanes(controls, q, right, &factor);
    for (int c = 0; c < q; c++)
        convex &= controls[c * right + c] > 0.0;
    good &= convex | (factor < LARGEST);
    substitute_lanes(controls, q, right);

    const lanes *dU = controls + q;
    for (int i = 0; i < n; i++) {
        const lanes *from = columns + i * width, *sum = sums + i * known;
        lanes *x = found + (i / v * D + i % v) * inputs, *p = costates + i * inputs;
        for (int c = 0; c < inputs; c++) {
            x[c] = c < before ? from[c] : SPREAD(0.0);
            p[c] = c < before ? -sum[c] : SPREAD(0.0);
        }
        for (int l = 0; l < q; l++) {
            const lanes state = from[before + l], slope = sum[before + l];
            for (int c = 0; c < inputs; c++) {
                x[c] += state * dU[l * right + c];
                p[c] -= slope * dU[l * right + c];
            }
        }
        for (int c = 0; c < inputs; c++)
            p[c] *= b[i / v];
        p[before + i % v] += d[i / v];
    }
    for (int i = 0; i < q; i++)
        memcpy(found + (i / m * D + v + i % m) * inputs, dU + i * right, sizeof(lanes) * inputs);
    substitute_transposed(states, n, width, costates, inputs);
    for (int i = 0; i < n; i++)
        for (int c = 0; c < inputs; c++)
            found[(split + i) * inputs + c] = costates[i * inputs + c] / b[i / v];
    for (int l = 0; l < LANES; l++)
        trusted[l] = good[l] != 0;
}
