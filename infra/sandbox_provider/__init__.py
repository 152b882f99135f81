"""A payment provider to develop and test against: a small HTTP server of its own, with its own books, that takes no real money.

Start it with `python -m infra.sandbox_provider`; `--help` names the options, `server.Settings` the keys it reads from the environment.
`server.py` answers requests, `books.py` remembers, `courier.py` delivers notifications, `faults.py` misbehaves on request. Nothing here
knows Linli's services, and they know it only by this protocol.

**Merchant API** (JSON; the shape is WeChat Pay's APIv3 in small):

    POST /v3/orders                    {out_trade_no, amount_fen, description, attach, time_expire, notify_url} -> {pay_url}
    GET  /v3/orders/{out_trade_no}     -> {out_trade_no, trade_state: NOTPAY|SUCCESS|CLOSED, transactions: [{transaction_id, amount_fen,
                                       success_time}]}
    POST /v3/orders/{out_trade_no}/close
    POST /v3/refunds                   {out_refund_no, out_trade_no, transaction_id, amount_fen, total_fen, reason, notify_url} -> a refund
    GET  /v3/refunds/{out_refund_no}   -> {out_refund_no, refund_id, state: PROCESSING|SUCCESS|ABNORMAL, amount_fen, success_time}
    GET  /v3/bills/{YYYY-MM-DD}        -> the day's reconciliation file

An order or refund sent again is answered as before; with another content it is refused. A refusal is 400, 404 or 409 with {code, message}.

**Signatures** are Ed25519 in base64, in both directions, with the headers Sandbox-Serial (the key's id), Sandbox-Timestamp (seconds since
1970), Sandbox-Nonce and Sandbox-Signature. A request also carries Sandbox-Merchant, and signs its method, path, timestamp, nonce and body,
each followed by a line feed; answers and notifications sign timestamp, nonce and body in the same way.

**Notifications** are POSTed to the order's notify_url, again and again with growing delays, until they are answered with 200 and
{"code": "SUCCESS"}: {id, event_type, create_time, resource}. TRANSACTION.SUCCESS carries {merchant_id, out_trade_no, transaction_id,
amount_fen, success_time}; REFUND.SUCCESS and REFUND.ABNORMAL carry {merchant_id, out_refund_no, state, amount_fen, success_time}.

**Reconciliation file**: CSV in UTF-8 with one line for each taking of money and each finished refund of a day in Asia/Shanghai, and a last
line that counts them:

    kind,merchant_id,reference,transaction_id,amount_fen,state,time,attach
    payment,linli,0197...,4200...,1250,SUCCESS,2026-01-05T10:15:00+08:00,...
    refund,linli,0197...,5000...,1250,SUCCESS,2026-01-05T10:20:00+08:00,...
    total,2

**Payers** open pay_url, a page with one button; POST to it pays.

**Faults**: POST /faults {kind, count, seconds, operation, after} arms one, DELETE /faults disarms all. `faults.py` lists the kinds.
"""
