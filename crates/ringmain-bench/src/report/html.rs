//! One self-contained page: no script, no font, no image from elsewhere.

use std::fmt::Write as _;

use super::text::{goal, number, time, verdict};
use super::{Report, svg};
use crate::harness::row::{Row, Summary};

const STYLE: &str = "\
:root{--ink:#1c2530;--dim:#66717f;--line:#d9dfe6;--page:#fbfcfd;--card:#fff;--product:#0b6e99;\
--baseline:#c98a2b;--good:#1f7a3f;--bad:#b3261e}\
@media(prefers-color-scheme:dark){:root{--ink:#e5eaf0;--dim:#93a0ae;--line:#303a45;--page:#12171d;\
--card:#19212a;--product:#58b7e0;--baseline:#e0ab5a;--good:#5cc47f;--bad:#ff7b72}}\
body{margin:0 auto;padding:2rem 1rem 4rem;max-width:84rem;background:var(--page);color:var(--ink);\
font:15px/1.5 system-ui,sans-serif}\
h1{font-size:1.5rem;margin:0}h2{font-size:1.05rem;margin:2.2rem 0 .4rem}\
p{margin:.3rem 0;color:var(--dim);max-width:60rem}\
.scroll{overflow-x:auto}\
table{border-collapse:collapse;width:100%;background:var(--card);font-variant-numeric:tabular-nums}\
th,td{padding:.35rem .35rem;border-bottom:1px solid var(--line);text-align:right;\
white-space:nowrap;vertical-align:middle}\
th{color:var(--dim);font-weight:600;font-size:.85rem}th:first-child,td:first-child,td.left,th.left\
{text-align:left}td.how{white-space:normal;color:var(--dim);font-size:.85rem}\
tr.suite th{padding-top:1.1rem;color:var(--ink);font-size:.95rem}\
.met{color:var(--good);font-weight:600}.MISSED{color:var(--bad);font-weight:600}\
.skipped{color:var(--dim)}\
svg{display:block}svg text{font:11px system-ui,sans-serif;\
fill:var(--dim);text-anchor:middle}\
.axis{stroke:var(--dim)}.grid{stroke:var(--line)}.one{stroke:var(--baseline);stroke-width:2}\
.goal{stroke:var(--good);stroke-width:2;stroke-dasharray:3 3}\
.product{fill:var(--product);stroke:var(--product)}.missed{fill:var(--bad);stroke:var(--bad)}\
.baseline{fill:var(--baseline);stroke:var(--baseline)}.range{fill-opacity:.35;stroke:none}\
.area{fill-opacity:.3;stroke-width:1}.median{stroke-width:2}.tail{stroke-width:2}\
.cards{display:flex;flex-wrap:wrap;gap:0 2rem}.cards section{flex:0 1 560px;min-width:0}\
.cards svg{max-width:100%;height:auto}.cards p{font-size:.85rem}\
.key{display:inline-block;width:.8em;height:.8em;margin-right:.45em;border-radius:2px}\
@media(max-width:46rem){thead,.base,.other{display:none}table,tbody{display:block}\
tr{display:grid;grid-template-columns:auto 1fr auto;gap:0 .5rem;padding:.4rem .5rem;\
border-bottom:1px solid var(--line)}td,th{border:0;padding:.1rem 0}\
td.name,td.how,tr.suite th{grid-column:1/-1}td.name{font-weight:600}\
td.name:not(:only-child){grid-column:1/3}td.verdict{grid-area:1/3}td.picture{grid-area:3/1/4/3}\
td.unit{text-align:left}td.reason{grid-column:1/-1;white-space:normal}}";

/// The page.
pub(super) fn page(report: &Report) -> String {
    let machine = escape(&report.machine.sentence());
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>ringmain bench</title><style>{STYLE}</style></head><body>\
         <h1>ringmain bench</h1><p>{machine}</p><p>{}.</p>\
         <p>Product and baseline take turns, pass after pass. A ratio is value divided by baseline \
         value in one pass; shown is the median with the range of all passes. “Other” is the \
         share of the machine’s CPU time that foreign work took in the worst pass. Lines of a \
         picture: the baseline in orange, the goal in dotted green.</p>",
        escape(&report.closing_sentence())
    );
    ratios(&mut out, &report.rows);
    latencies(&mut out, &report.rows);
    methods(&mut out, &report.rows);
    out.push_str("</body></html>\n");
    out
}

fn ratios(out: &mut String, rows: &[Row]) {
    out.push_str(
        "<h2>Rows</h2><div class=\"scroll\"><table><thead><tr><th>row</th><th>value</th>\
         <th>baseline</th><th class=\"left\">unit</th><th>ratio</th><th class=\"left\">ratio, log scale</th><th>goal</th><th></th>\
         <th>other</th></tr></thead><tbody>",
    );
    let mut suite = "";
    for row in rows {
        let name = escape(row.name);
        if std::mem::replace(&mut suite, row.suite) != row.suite {
            let suite = escape(suite);
            let _ = write!(out, "<tr class=\"suite\"><th colspan=\"9\">{suite}</th></tr>");
        }
        if let Some(reason) = &row.skipped {
            let reason = escape(reason);
            let _ = write!(
                out,
                "<tr class=\"skipped\"><td class=\"name\">{name}</td><td class=\"left reason\" \
                 colspan=\"8\">skipped: {reason}</td></tr>"
            );
            continue;
        }
        let cell = |value: Option<f64>| value.map(number).unwrap_or_default();
        let other = row.other_cpu_share_max().map(|share| format!("{:.0} %", share * 100.0));
        let word = verdict(row);
        let _ = write!(
            out,
            "<tr><td class=\"name\">{name}</td><td>{}</td><td class=\"base\">{}</td>\
             <td class=\"left unit\">{}</td><td>{}</td><td class=\"picture\">{}</td><td>{}</td>\
             <td class=\"verdict {word}\">{word}</td><td class=\"other\">{}</td></tr>",
            cell(row.value),
            cell(row.baseline_value),
            escape(row.unit),
            cell(row.ratio),
            svg::ratio(row).unwrap_or_default(),
            escape(&goal(row)),
            other.unwrap_or_default(),
        );
    }
    out.push_str("</tbody></table></div>");
}

fn latencies(out: &mut String, rows: &[Row]) {
    out.push_str("<div class=\"cards\">");
    for row in rows {
        let Some(product) = &row.latency else { continue };
        let _ = write!(
            out,
            "<section><h2>{}</h2><p><span class=\"key\" style=\"background:var(--product)\"></span>{}",
            escape(row.name),
            quantiles("ringmain", product)
        );
        if let (Some(side), Some(name)) = (&row.baseline_latency, row.baseline) {
            let _ = write!(
                out,
                "<br><span class=\"key\" style=\"background:var(--baseline)\"></span>{}",
                quantiles(name, side)
            );
        }
        out.push_str("</p>");
        out.push_str(&svg::latency(product, row.baseline_latency.as_ref()));
        out.push_str("</section>");
    }
    out.push_str("</div>");
}

fn quantiles(name: &str, side: &Summary) -> String {
    let at = |ns: u64| time(ns as f64).replace(' ', "&nbsp;");
    format!(
        "{}: median {}, p90 {}, p99 {}, p99.9 {}, worst {}, {}&nbsp;samples",
        escape(name),
        at(side.p50_ns),
        at(side.p90_ns),
        at(side.p99_ns),
        at(side.p999_ns),
        at(side.max_ns),
        number(side.count as f64)
    )
}

fn methods(out: &mut String, rows: &[Row]) {
    out.push_str(
        "<h2>How each row is measured</h2><div class=\"scroll\"><table><thead><tr><th>row</th>\
         <th>baseline</th><th>method</th></tr></thead><tbody>",
    );
    for row in rows {
        let _ = write!(
            out,
            "<tr><td class=\"name\">{}</td><td class=\"left\">{}</td><td class=\"left how\">{}</td>\
             </tr>",
            escape(row.name),
            escape(row.baseline.unwrap_or("none")),
            escape(row.how)
        );
    }
    out.push_str("</tbody></table></div>");
}

fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("<b a=\"1\">&"), "&lt;b a=&quot;1&quot;&gt;&amp;");
    }
}
